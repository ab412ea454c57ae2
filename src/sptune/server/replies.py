"""The replies to one request: asked for together, read as they grow, and given up together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sptune.errors import AdapterError
from sptune.server.errors import RETRY_SECONDS, ApiError, bad_request

if TYPE_CHECKING:
    from sptune.engine.serving import Finish, Piece, ServingRequest, Stream, TokenLogprob
    from sptune.model.selection import Selection
    from sptune.server.note import Note
    from sptune.server.service import Service


@dataclass(slots=True)
class Reply:
    """One reply as far as it was generated."""

    text: str = ""
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None


class Replies:
    """An asynchronous iterator of (number of the reply, piece of it) over the replies to one request.

    Whoever makes one closes it; that frees the slots within one token and notes what became of the replies.

    Args:
        service: of the server.
        requests: one for each reply, for the same model.
        model: name of the model.
        note: of the request.
    """

    def __init__(self, service: Service, requests: Sequence[ServingRequest], *, model: str, note: Note) -> None:
        self.model = model
        self.requests = requests
        self.created = time.time()
        self.replies = [Reply() for _ in requests]
        self._service = service
        self._note = note
        self._streams: list[Stream] = []
        self._reading: dict[asyncio.Task[Piece | None], int] = {}
        self._ready: deque[tuple[int, Piece]] = deque()
        self._began = time.monotonic()
        self._last = [0.0 for _ in requests]  # when each reply last grew; 0: not yet

    @property
    def selections(self) -> list[Selection | None]:
        """The prompt that was chosen for each reply, and all scores; None for the base model."""
        return [stream.selection for stream in self._streams]

    @property
    def weights(self) -> list[tuple[float, ...] | None]:
        """K weights of the prompts of each reply; None where one speaks alone."""
        return [stream.weights for stream in self._streams]

    @property
    def prompt_tokens(self) -> list[int]:
        """Tokens that each reply follows."""
        return [stream.prompt_tokens for stream in self._streams]

    async def start(self) -> None:
        """Ask the engine for the replies, and wait until it has chosen their prompts.

        Raises:
            ApiError: no such model, one that cannot be loaded, or too late.
            SptError: what the engine says of a request.
        """
        engine, metrics = self._service.engine, self._service.metrics
        load = engine.load()
        if load.slots and len(self.requests) > (most := load.slots + load.queue_limit):
            raise bad_request(
                f"n: {len(self.requests)} replies are more than this server's slots and queue hold, {most}",
                param="n",
                code="too_many_replies",
            )
        try:
            async with asyncio.timeout(self._service.settings.first_token_seconds):
                for request in self.requests:
                    self._streams.append(engine.submit(request))
                for stream in self._streams:
                    await stream.started()
        except TimeoutError:
            raise self._late() from None
        except AdapterError as error:
            raise self._service.model_error(self.model, error) from error
        self._note.model = self.model
        for number, stream in enumerate(self._streams):
            metrics.started(self.model, stream)
            self._read(number)

    async def finish(self) -> None:
        """Start, and read all replies to their end.

        Raises:
            ApiError: as `start`, or too late.
        """
        await self.start()
        async for _ in self:
            pass

    def __aiter__(self) -> Replies:
        return self

    async def __anext__(self) -> tuple[int, Piece]:
        while not self._ready:
            if not self._reading:
                raise StopAsyncIteration
            await self._wait()
        number, piece = self._ready.popleft()
        self._grow(number, piece)
        if piece.finish is None:
            self._read(number)
        return number, piece

    async def close(self) -> None:
        """Give up what has not ended. To be called once, whatever happened."""
        reading = list(self._reading)
        self._reading.clear()
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for stream in self._streams:
            await stream.aclose()
        tokens = sum(reply.tokens for reply in self.replies)
        if self._note.model:
            self._service.metrics.tokens.labels(self.model, "completion").inc(tokens)
            self._tell(tokens)

    def _read(self, number: int) -> None:
        task = asyncio.create_task(_next(self._streams[number]))
        self._reading[task] = number

    async def _wait(self) -> None:
        """Until one of the replies has grown."""
        settings = self._service.settings
        seconds = (
            settings.total_seconds if any(self._last) else min(settings.first_token_seconds, settings.total_seconds)
        )
        left = self._began + seconds - time.monotonic()
        done, _ = await asyncio.wait(self._reading, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise self._late()
        for task in done:
            number = self._reading.pop(task)
            piece = task.result()
            if piece is not None:
                self._ready.append((number, piece))

    def _grow(self, number: int, piece: Piece) -> None:
        reply, metrics, now = self.replies[number], self._service.metrics, time.monotonic()
        if not any(self._last):
            self._note.first_token_seconds = round(now - self._began, 4)
        if not self._last[number]:
            metrics.first_token.labels(self.model).observe(now - self._began)
        elif piece.tokens > reply.tokens:
            metrics.inter_token.labels(self.model).observe((now - self._last[number]) / (piece.tokens - reply.tokens))
        self._last[number] = now
        reply.text += piece.text
        reply.tokens = piece.tokens
        reply.logprobs += piece.logprobs
        reply.finish = piece.finish

    def _late(self) -> ApiError:
        settings = self._service.settings
        if any(self._last):
            late = f"the reply did not end within {settings.total_seconds:g} s; ask for fewer tokens"
            return ApiError(504, "total_timeout", late, param="max_tokens")
        late = f"no token came within {settings.first_token_seconds:g} s; the server is busy, try again"
        return ApiError(503, "first_token_timeout", late, retry_after=RETRY_SECONDS)

    def _tell(self, tokens: int) -> None:
        """Note what became of the replies."""
        note, selection = self._note, self.selections[0]
        note.replies = len(self.replies)
        note.prompt_tokens = sum(self.prompt_tokens)
        note.completion_tokens = tokens
        note.finish = self.replies[0].finish or "cancelled"
        if selection is not None:
            note.soft_prompt, note.margin = selection.prompt, round(selection.margin, 6)


async def _next(stream: Stream) -> Piece | None:
    return await anext(aiter(stream), None)
