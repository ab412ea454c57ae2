"""One way from replies to an answer, whole or as a stream of server-sent events, for chats and completions alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fastapi import Response
from fastapi.responses import StreamingResponse

from sptune.server.disconnect import while_connected
from sptune.server.errors import TOLD_BY_THE_LOG, as_api_error

if TYPE_CHECKING:
    from fastapi import Request
    from pydantic import BaseModel
    from starlette.types import Receive, Scope, Send

    from sptune.engine.serving import Piece
    from sptune.server.replies import Replies
    from sptune.server.schemas.fields import GenerationBody

_log = logging.getLogger(__name__)

WARNING = "X-Sptune-Warning"
_SLOW_READER_SECONDS = 10.0  # beyond the reply's own time, for the client to take what there is


class Form(Protocol):
    """What an answer looks like."""

    def whole(self) -> BaseModel:
        """The answer, once all replies have ended."""

    def chunks(self, number: int, piece: Piece) -> list[BaseModel]:
        """The events that tell of a piece of reply `number`."""

    def usage(self) -> BaseModel:
        """The event that tells the usage, once all replies have ended."""


@dataclass(slots=True)
class Answering:
    """An answer to be made. Whoever makes one closes it.

    Attributes:
        replies: not started yet.
        form: what the answer looks like.
        body: the request.
        keep: records the replies, once no more of them comes.
        total_seconds: time to the end of a reply.
    """

    replies: Replies
    form: Form
    body: GenerationBody
    keep: Callable[[], Awaitable[None]]
    total_seconds: float
    _closed: bool = False

    async def close(self) -> None:
        """Give up what has not ended, and record what there is. Does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.replies.close()
        finally:
            await self.keep()


async def respond(request: Request, answering: Answering) -> Response:
    """The answer. A stream begins with the first token, so that what goes wrong before it has a status of its own.

    Raises:
        SptError: whatever is wrong before the first token, or in the whole of an answer that is not streamed.
    """
    ignored = ", ".join(answering.body.ignored)
    headers = {WARNING: f"these fields have no effect: {ignored}"} if ignored else {}
    if answering.body.stream:
        try:
            first = await while_connected(request, _first(answering.replies))
        except BaseException:
            await answering.close()
            raise
        return EventStream(answering, first, headers=headers)
    try:
        await while_connected(request, answering.replies.finish())
    finally:
        await answering.close()
    return Response(answering.form.whole().model_dump_json(), media_type="application/json", headers=headers)


async def _first(replies: Replies) -> tuple[int, Piece]:
    await replies.start()
    return await anext(replies)


class EventStream(StreamingResponse):
    """Server-sent events, ended by `[DONE]`. However it ends, the replies are closed.

    Args:
        answering: whose replies were started.
        first: the first piece.
        headers: of the answer.
    """

    def __init__(self, answering: Answering, first: tuple[int, Piece], *, headers: dict[str, str]) -> None:
        self._answering = answering
        self._events = self._make(first)
        unbuffered = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._events, media_type="text/event-stream", headers=headers | unbuffered)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        self._note = scope["state"]["note"]
        try:
            async with asyncio.timeout(self._answering.total_seconds + _SLOW_READER_SECONDS):
                await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._answering.close()

    async def _make(self, first: tuple[int, Piece]) -> AsyncGenerator[bytes, None]:
        form, replies = self._answering.form, self._answering.replies
        try:
            for chunk in form.chunks(*first):
                yield _event(chunk)
            async for number, piece in replies:
                for chunk in form.chunks(number, piece):
                    yield _event(chunk)
        except Exception as error:  # the status is sent: what went wrong can only be an event
            answer = as_api_error(error)
            if answer.status in TOLD_BY_THE_LOG:
                _log.error("stream.failed", exc_info=error, extra={"note": {"request_id": self._note.request_id}})
            self._note.error = answer.code
            yield b"data: " + bytes(answer.response().body) + b"\n\n"
            return
        await self._answering.close()
        if self._answering.body.includes_usage:
            yield _event(form.usage())
        yield b"data: [DONE]\n\n"


def _event(chunk: BaseModel) -> bytes:
    """A chunk as an event; `spt` stands in those alone that have it."""
    left_out = {"spt"} if getattr(chunk, "spt", None) is None else None
    return f"data: {chunk.model_dump_json(exclude=left_out)}\n\n".encode()
