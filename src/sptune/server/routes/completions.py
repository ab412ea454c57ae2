"""`POST /v1/completions`."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request, Response

from sptune.errors import UsageError
from sptune.server.asking import completion_requests
from sptune.server.errors import as_api_error, bad_request
from sptune.server.forms.completion import CompletionForm
from sptune.server.replies import Replies
from sptune.server.respond import Answering, respond
from sptune.server.routes.documented import ERRORS, EVENTS
from sptune.server.schemas.answers import Completion
from sptune.server.schemas.requests import CompletionBody
from sptune.server.service import NoteOf, ServiceOf

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/completions", response_model=Completion, responses=ERRORS | {200: EVENTS})
async def completions(body: CompletionBody, request: Request, service: ServiceOf, note: NoteOf) -> Response:
    """Continue a text as it stands, without template and persona. It is never recorded."""
    note.stream = bool(body.stream)
    service.limits.check_completion(body)
    replies = Replies(service, completion_requests(service, body), model=body.model, note=note)
    name = f"cmpl-{uuid.uuid4().hex}"
    form = CompletionForm(name, replies, per_text=body.replies, logprobs=body.logprobs is not None)
    answering = Answering(replies, form, body, _keep_nothing, service.settings.total_seconds)
    try:
        return await respond(request, answering)
    except UsageError as error:
        if as_api_error(error).code != "prompt_not_found":
            raise
        raise bad_request(
            f"spt_{error}", param="spt_prompt", code="prompt_not_found"
        ) from error  # `prompt` is the text


async def _keep_nothing() -> None:
    """Texts are no conversations."""
