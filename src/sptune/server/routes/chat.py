"""`POST /v1/chat/completions`."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request, Response

from sptune.server.asking import chat_requests
from sptune.server.forms.chat import ChatForm
from sptune.server.recording import keep_replies
from sptune.server.replies import Replies
from sptune.server.respond import Answering, respond
from sptune.server.routes.documented import ERRORS, EVENTS
from sptune.server.schemas.answers import ChatCompletion
from sptune.server.schemas.requests import ChatBody
from sptune.server.service import NoteOf, ServiceOf

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS | {200: EVENTS})
async def chat_completions(body: ChatBody, request: Request, service: ServiceOf, note: NoteOf) -> Response:
    """Reply to a conversation."""
    note.stream = bool(body.stream)
    service.limits.check_chat(body)
    name = f"chatcmpl-{uuid.uuid4().hex}"
    replies = Replies(service, chat_requests(service, body, name=name), model=body.model, note=note)

    async def keep() -> None:
        await keep_replies(service, replies, name=name, user=body.user)

    form = ChatForm(name, replies, logprobs=bool(body.logprobs))
    return await respond(request, Answering(replies, form, body, keep, service.settings.total_seconds))
