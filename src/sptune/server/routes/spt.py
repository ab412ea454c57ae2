"""What is selective prompt tuning's own: the choice of a prompt, personas, and feedback."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from sptune.errors import AdapterError
from sptune.server.asking import conversation_request
from sptune.server.errors import RETRY_SECONDS, ApiError, bad_request
from sptune.server.routes.documented import ERRORS
from sptune.server.schemas.answers import FeedbackKept, Personas, SelectionAnswer
from sptune.server.schemas.requests import FeedbackBody, SelectBody
from sptune.server.service import NoteOf, ServiceOf

router = APIRouter(tags=["Selective prompts"])


@router.post("/v1/spt/select", responses=ERRORS)
async def select(body: SelectBody, service: ServiceOf, note: NoteOf) -> SelectionAnswer:
    """Which soft prompt would reply to a conversation, and the scores of all K, without generating."""
    service.limits.check_conversation(body)
    if service.adapter(body.model) is None:
        raise bad_request("model: the base model has no soft prompts to choose from; name an adapter", param="model")
    request = conversation_request(service, body, model=body.model)
    try:
        async with asyncio.timeout(service.settings.first_token_seconds):
            [selection] = await service.engine.select([request])
    except TimeoutError:
        raise ApiError(503, "selection_timeout", "the server is busy; try again", retry_after=RETRY_SECONDS) from None
    except AdapterError as error:
        raise service.model_error(body.model, error) from error
    note.model, note.soft_prompt, note.margin = body.model, selection.prompt, round(selection.margin, 6)
    return SelectionAnswer(
        model=body.model, prompt=selection.prompt, scores=list(selection.scores), margin=selection.margin
    )


@router.get("/v1/spt/personas", responses=ERRORS)
async def personas(service: ServiceOf) -> Personas:
    """The personas that requests can give by name."""
    return Personas(personas={name: list(sentences) for name, sentences in service.personas.items()})


@router.post("/v1/feedback", responses=ERRORS)
async def feedback(body: FeedbackBody, service: ServiceOf) -> FeedbackKept:
    """Rate a reply. It takes the place of an earlier rating."""
    records = service.records
    if records is None:
        raise ApiError(400, "records_off", "this server keeps no records; start it with --record FILE")
    found = await asyncio.to_thread(
        records.feedback, body.completion_id, rating=body.rating, comment=body.comment, choice=body.choice
    )
    if not found:
        missing = "completion_id: no such reply; give the id of a chat completion of this server that is kept still"
        raise ApiError(404, "completion_not_found", missing, param="completion_id")
    return FeedbackKept(completion_id=body.completion_id, rating=body.rating)
