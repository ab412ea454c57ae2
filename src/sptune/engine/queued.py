"""What serving engines have in common: adapters, a queue with an end, preparing requests, and draining."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from sptune.engine.adapters import AdapterStore
from sptune.engine.loaded_adapter import AdapterLoader, LoadedAdapter
from sptune.engine.prepared import Prepared, prepare, selected
from sptune.engine.reply_stream import ReplyStream
from sptune.engine.serving import Load, OverloadedError, ServingRequest, UnavailableError
from sptune.engine.sticky import earlier_turns
from sptune.errors import DataError, UsageError
from sptune.model.selection import stay

if TYPE_CHECKING:
    from sptune.model.load import LoadedBase
    from sptune.model.selection import Selection

_LONGEST_WINDOW = 1 << 20  # where the model names none
_READERS = 2  # threads that encode and score


class QueuedEngine(ABC):
    """A `ServingEngine` but for the generating: that is what `_answer` does, in a subclass.

    Args:
        base: the base model; nothing else may train or change it meanwhile.
        slots: replies that are generated at a time.
        queue_limit: requests that may wait; beyond it they are refused.
        adapter_limit: the most adapters in memory; None is no limit.

    Raises:
        UsageError: a number out of range.
    """

    def __init__(self, base: LoadedBase, *, slots: int, queue_limit: int, adapter_limit: int | None) -> None:
        check_least(slots=(slots, 1), queue_limit=(queue_limit, 0))
        self._backbone = base.backbone
        self._slots, self._queue_limit = slots, queue_limit
        self._loader = AdapterLoader(base)
        self._bare = self._loader.bare()
        self.adapters = AdapterStore(self._loader.load, limit=adapter_limit)
        self._open: set[ReplyStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = self._begun = False
        self._reply_seconds = 1.0  # a running mean

    @property
    def base(self) -> str:
        """Name of the base model."""
        return self._backbone.base

    @property
    def window(self) -> int:
        """The most tokens of prompt, context and reply together."""
        return min(self._backbone.window or _LONGEST_WINDOW, self._room(1) or _LONGEST_WINDOW)

    async def start(self) -> None:
        """See `ServingEngine.start`."""
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()
        await self._start()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sptune-select")
        self._accepting = self._begun = True

    async def stop(self, *, drain: float = 0.0) -> None:
        """See `ServingEngine.stop`."""
        if not self._begun:
            return
        self._accepting = False
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout=drain)
        for stream in list(self._open):
            if stream.give_up is None:
                stream.break_off(UnavailableError("the server stops; try again later"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop()
        await self._idle.wait()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._begun = False

    def submit(self, request: ServingRequest) -> ReplyStream:
        """See `ServingEngine.submit`."""
        self._check_accepting()
        if len(self._open) >= self._slots + self._queue_limit:
            raise OverloadedError(
                f"all {self._slots} slots are busy and {self._queue_limit} requests wait; try again later",
                retry_after=max(1.0, self._reply_seconds),
            )
        begun = time.monotonic()
        stream = ReplyStream(bare=request.adapter is None, leave=lambda stream: self._left(stream, begun))
        self._open.add(stream)
        self._idle.clear()
        stream.task = asyncio.create_task(self._run(stream, request))
        self._tasks.add(stream.task)
        stream.task.add_done_callback(self._tasks.discard)
        return stream

    async def select(self, requests: Sequence[ServingRequest]) -> list[Selection]:
        """See `ServingEngine.select`."""
        self._check_accepting()
        return [await self._select(request) for request in requests]

    def load(self) -> Load:
        """See `ServingEngine.load`."""
        running = min(self._running, len(self._open))
        return Load(running, len(self._open) - running, self._slots, self._queue_limit)

    @abstractmethod
    def _room(self, speakers: int) -> int | None:
        """The most tokens of prompt, context and reply that one request may have for each of so many prompts that speak together.

        None is no limit.

        Raises:
            UsageError: so many are never run side by side.
        """

    @property
    @abstractmethod
    def _running(self) -> int:
        """Replies that have a slot."""

    @abstractmethod
    async def _start(self) -> None:
        """Make ready what generates."""

    @abstractmethod
    async def _stop(self) -> None:
        """End what generates; replies that it has fail."""

    @abstractmethod
    async def _answer(self, stream: ReplyStream, prepared: Prepared) -> None:
        """Send the reply to `stream`, or hand it to what will (`ReplyStream.give_up`)."""

    def _check_accepting(self) -> None:
        if not self._accepting:
            raise UnavailableError("the server is starting or stopping; try again later")

    async def _adapter(self, request: ServingRequest) -> LoadedAdapter:
        return self._bare if request.adapter is None else await self.adapters.get(request.adapter)

    async def _select(self, request: ServingRequest) -> Selection:
        if request.adapter is None:
            raise UsageError("model: the base model has no prompts to choose from; name an adapter")
        adapter = await self._adapter(request)
        return await self._choose(await self._stuck(request, adapter), adapter)

    async def _stuck(self, request: ServingRequest, adapter: LoadedAdapter) -> ServingRequest:
        """The request with the prompt of the turn before, where it is sticky."""
        kept: Selection | None = None
        for earlier in earlier_turns(request):
            with suppress(DataError):  # what does not fit the window had no reply here, and no prompt that spoke
                kept = stay(kept, await self._choose(earlier, adapter), threshold=request.threshold)
        return request if kept is None else replace(request, previous=kept.prompt)

    async def _choose(self, request: ServingRequest, adapter: LoadedAdapter) -> Selection:
        return await self._loop.run_in_executor(self._readers, selected, request, adapter)

    async def _run(self, stream: ReplyStream, request: ServingRequest) -> None:
        """A request from its arrival on."""
        try:
            adapter = await self._adapter(request)
            request = await self._stuck(request, adapter)
            prepared = await self._loop.run_in_executor(self._readers, self._prepare, request, adapter)
            stream.begin(prepared)
            await self._answer(stream, prepared)
        except Exception as error:
            stream.receive(error)

    def _prepare(self, request: ServingRequest, adapter: LoadedAdapter) -> Prepared:
        return prepare(request, adapter, room=self._room)

    def _left(self, stream: ReplyStream, begun: float) -> None:
        self._reply_seconds += 0.1 * (time.monotonic() - begun - self._reply_seconds)
        self._open.discard(stream)
        if not self._open:
            self._idle.set()


def check_least(**numbers: tuple[int, int]) -> None:
    """Refuse a number that is below the least it can be; each is given as both.

    Raises:
        UsageError: names it.
    """
    for name, (value, least) in numbers.items():
        if value < least:
            raise UsageError(f"{name}: {value} is below {least}")
