"""From a request's fields to what the engine is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sptune.engine.serving import ServingRequest
from sptune.server.conversation import read_conversation
from sptune.server.errors import bad_request

if TYPE_CHECKING:
    from sptune.model.generate import Decoding
    from sptune.server.schemas.fields import GenerationBody
    from sptune.server.schemas.requests import ChatBody, CompletionBody, ConversationBody
    from sptune.server.service import Service

STICKY_MARGIN = 0.05


def chat_requests(service: Service, body: ChatBody, *, name: str) -> list[ServingRequest]:
    """One request for each reply that a chat asks for.

    Raises:
        ApiError: a conversation that cannot be read, or fields that do not go together.
    """
    one = conversation_request(service, body, model=body.model, name=name)
    tokens = body.max_completion_tokens or body.max_tokens
    one = replace(one, stop=body.stops, logprobs=(body.top_logprobs or 0) if body.logprobs else None)
    decoding = make_decoding(service, body, max_tokens=tokens)
    return _several(replace(one, decoding=decoding), body.replies)


def completion_requests(service: Service, body: CompletionBody) -> list[ServingRequest]:
    """One request for each continuation: those of the first text, then those of the second, and so on.

    Raises:
        ApiError: fields that do not go together.
    """
    adapter = service.adapter(body.model)
    if adapter is None and body.forced is not None:
        raise _no_prompts("spt_prompt")
    decoding = make_decoding(service, body, max_tokens=body.max_tokens)
    return [
        request
        for text in body.texts
        for request in _several(
            ServingRequest(
                adapter, None, decoding, stop=body.stops, prompt=body.forced, logprobs=body.logprobs, text=text
            ),
            body.replies,
        )
    ]


def conversation_request(service: Service, body: ConversationBody, *, model: str, name: str = "chat") -> ServingRequest:
    """Who is to reply to what, under which prompt.

    Raises:
        ApiError: a conversation that cannot be read, or a soft prompt of the base model, which has none.
    """
    from sptune.model.generate import Decoding

    adapter = service.adapter(model)
    if adapter is None and (body.forced is not None or body.selection == "sticky"):
        raise _no_prompts("selection" if body.forced is None else "prompt")
    margin = STICKY_MARGIN if body.sticky_margin is None else body.sticky_margin
    context = read_conversation(body, service.personas, name=name)
    sticky = body.selection == "sticky"
    return ServingRequest(adapter, context, Decoding(), prompt=body.forced, sticky=sticky, threshold=margin)


def make_decoding(service: Service, body: GenerationBody, *, max_tokens: int | None) -> Decoding:
    """How tokens are chosen, and who speaks; where a request does not say, the server's settings do.

    Raises:
        ApiError: prompts that are to speak together of the base model, which has none.
    """
    from sptune.model.generate import Decoding

    if body.decoding not in (None, "top1") and service.adapter(body.model) is None:
        raise _no_prompts("decoding")
    settings = service.settings
    return Decoding(
        max_new_tokens=max_tokens or min(settings.default_max_tokens, settings.max_tokens),
        temperature=settings.default_temperature if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=None if body.seed is None else body.seed % 2**63,
        kind=body.decoding or settings.decoding,
        gate_temperature=settings.gate_temperature,
    )


def _several(request: ServingRequest, count: int) -> list[ServingRequest]:
    """`count` such requests; those with a seed draw from different ones."""
    seed = request.decoding.seed
    if seed is None:
        return [request] * count
    seeds = [(seed + number) % 2**63 for number in range(count)]
    return [replace(request, decoding=replace(request.decoding, seed=one)) for one in seeds]


def _no_prompts(field: str) -> Exception:
    return bad_request(
        f"{field}: the base model has no soft prompts to choose from; name an adapter as model", param=field
    )
