"""A reply on its way from what generates it to whoever asked for it; see `sptune.engine.serving.Stream`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from sptune.engine.serving import Piece

if TYPE_CHECKING:
    from sptune.engine.prepared import Prepared
    from sptune.errors import SptError
    from sptune.model.selection import Selection


class ReplyStream:
    """Lives in the event loop's thread.

    Args:
        bare: no adapter was named, so that there is no selection to tell of.
        leave: called once, when nothing more will come of the request.

    Attributes:
        task: works on the request; what is given up is cancelled.
        give_up: takes the request back from a worker that has it, which then says so; None while none has it.
    """

    def __init__(self, *, bare: bool, leave: Callable[[ReplyStream], None]) -> None:
        self.task: asyncio.Task[None] | None = None
        self.give_up: Callable[[], None] | None = None
        self._bare = bare
        self._leave = leave
        self._prepared: Prepared | None = None
        self._pieces: deque[Piece] = deque()
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._begun = asyncio.Event()
        self._ended = False
        self._closed = False

    @property
    def selection(self) -> Selection | None:
        """See `Stream.selection`."""
        return None if self._bare or self._prepared is None else self._prepared.selection

    @property
    def weights(self) -> tuple[float, ...] | None:
        """See `Stream.weights`."""
        return None if self._prepared is None or len(self._prepared.speakers) == 1 else self._prepared.weights

    @property
    def selection_seconds(self) -> float:
        """See `Stream.selection_seconds`."""
        return 0.0 if self._bare or self._prepared is None else self._prepared.selection_seconds

    @property
    def prompt_tokens(self) -> int:
        """See `Stream.prompt_tokens`."""
        return 0 if self._prepared is None else self._prepared.prompt_tokens

    async def started(self) -> None:
        """See `Stream.started`."""
        await self._begun.wait()
        if self._prepared is None and self._error is not None:
            raise self._error

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        """See `Stream.__anext__`."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._pieces.popleft()

    async def aclose(self) -> None:
        """See `Stream.aclose`."""
        if self._ended:
            return
        self._closed = True
        self._pieces.clear()
        if self.give_up is None:
            self.break_off(None)
        else:
            self.give_up()

    def break_off(self, error: SptError | None) -> None:
        """End a request that no worker has, with an error or without a word."""
        if self.task is not None:
            self.task.cancel()
        self.receive(error)

    def begin(self, prepared: Prepared) -> None:
        """The request is prepared."""
        self._prepared = prepared
        self._begun.set()

    def receive(self, news: Piece | Exception | None) -> None:
        """Take a piece, an error that ends the reply, or None: it was given up."""
        if self._ended:
            return
        if isinstance(news, Piece):
            if not self._closed:
                self._pieces.append(news)
            self._ended = news.finish is not None
        else:
            self._error = news
            self._ended = True
        self._news.set()
        if self._ended:
            self._begun.set()
            self._leave(self)
