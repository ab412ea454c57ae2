"""The engine on this machine for many users: one base model, any adapters and prompts in one batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from sptune.engine.adapters import AdapterStore
from sptune.engine.batch.slot_rows import BLOCK
from sptune.engine.batch.stream import BatchStream
from sptune.engine.batch.worker import Job, News, Worker
from sptune.engine.loaded_adapter import AdapterLoader, LoadedAdapter
from sptune.engine.prepared import Prepared, prepare, selected
from sptune.engine.serving import Load, OverloadedError, ServingRequest, UnavailableError
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.model.load import LoadedBase
    from sptune.model.selection import Selection

_LONGEST_WINDOW = 1 << 20  # where the model names none
_READERS = 2  # threads that encode and score, beside the one that generates


class BatchingEngine:
    """A `ServingEngine` on a model in this process: continuous batching.

    Replies advance together, one token a step, whatever adapter, prompt and decoding they use. A request joins between
    two steps, as soon as there is a slot and memory for it; those whose prompt was chosen first come first. Its tokens
    are those it would get alone, up to the rounding of the model's number format. Models that cannot be batched like
    that (`prefix.find_way`) generate in turn.

    Args:
        base: the base model; nothing else may train or change it meanwhile.
        slots: replies that are generated at a time.
        queue_limit: requests that may wait; beyond it they are refused.
        places: of keys and values in memory, for all replies together; a request of more is refused. As many again are
            kept of contexts that were run lately, so that the next turn runs only what is new in it.
        prefill: tokens of new contexts that are run between two tokens of the replies under way.
        adapter_limit: the most adapters in memory; None is no limit.

    Raises:
        UsageError: a number out of range.
    """

    def __init__(
        self,
        base: LoadedBase,
        *,
        slots: int = 16,
        queue_limit: int = 64,
        places: int = 16_384,
        prefill: int = 256,
        adapter_limit: int | None = None,
    ) -> None:
        least = {
            "slots": (slots, 1),
            "queue_limit": (queue_limit, 0),
            "places": (places, BLOCK),
            "prefill": (prefill, 1),
        }
        for name, (value, lowest) in least.items():
            if value < lowest:
                raise UsageError(f"{name}: {value} is below {lowest}")
        self._backbone = base.backbone
        self._slots, self._queue_limit = slots, queue_limit
        self._places, self._prefill = places // BLOCK * BLOCK, prefill
        self._loader = AdapterLoader(base)
        self._bare = self._loader.bare()
        self.adapters = AdapterStore(self._loader.load, limit=adapter_limit)
        self._open: set[BatchStream] = set()
        self._worker: Worker | None = None
        self._accepting = False
        self._reply_seconds = 1.0  # a running mean

    @property
    def base(self) -> str:
        """Name of the base model."""
        return self._backbone.base

    @property
    def window(self) -> int:
        """The most tokens of prompt, context and reply together."""
        return min(self._backbone.window or _LONGEST_WINDOW, self._places)

    async def start(self) -> None:
        """See `ServingEngine.start`."""
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sptune-select")
        self._worker = await asyncio.to_thread(
            Worker, self._backbone, slots=self._slots, places=self._places, prefill=self._prefill, post=self._post
        )
        self._worker.start()
        self._accepting = True

    async def stop(self, *, drain: float = 0.0) -> None:
        """See `ServingEngine.stop`."""
        if self._worker is None:
            return
        self._accepting = False
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout=drain)
        for stream in list(self._open):
            if stream.job is None:
                stream.receive(UnavailableError("the server stops; try again later"))
        await asyncio.to_thread(self._worker.stop)
        await self._idle.wait()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._worker = None

    def submit(self, request: ServingRequest) -> BatchStream:
        """See `ServingEngine.submit`."""
        self._check_accepting()
        if len(self._open) >= self._slots + self._queue_limit:
            raise OverloadedError(
                f"all {self._slots} slots are busy and {self._queue_limit} requests wait; try again later",
                retry_after=max(1.0, self._reply_seconds),
            )
        begun = time.monotonic()
        stream = BatchStream(bare=request.adapter is None, leave=lambda stream: self._left(stream, begun))
        self._open.add(stream)
        self._idle.clear()
        stream.preparing = asyncio.create_task(self._begin(stream, request))
        return stream

    async def select(self, requests: Sequence[ServingRequest]) -> list[Selection]:
        """See `ServingEngine.select`."""
        self._check_accepting()
        return [await self._select(request) for request in requests]

    def load(self) -> Load:
        """See `ServingEngine.load`."""
        running = 0 if self._worker is None else min(self._worker.running, len(self._open))
        return Load(running, len(self._open) - running, self._slots, self._queue_limit)

    def _check_accepting(self) -> None:
        if not self._accepting:
            raise UnavailableError("the server is starting or stopping; try again later")

    async def _adapter(self, request: ServingRequest) -> LoadedAdapter:
        return self._bare if request.adapter is None else await self.adapters.get(request.adapter)

    async def _select(self, request: ServingRequest) -> Selection:
        if request.adapter is None:
            raise UsageError("model: the base model has no prompts to choose from; name an adapter")
        adapter = await self._adapter(request)
        return await self._loop.run_in_executor(self._readers, selected, request, adapter)

    async def _begin(self, stream: BatchStream, request: ServingRequest) -> None:
        """Prepare a request and hand it to the worker."""
        try:
            adapter = await self._adapter(request)
            prepared = await self._loop.run_in_executor(self._readers, self._prepare, request, adapter)
        except Exception as error:
            stream.receive(error)
        else:
            self._hand_over(stream, prepared)

    def _prepare(self, request: ServingRequest, adapter: LoadedAdapter) -> Prepared:
        return prepare(request, adapter, places=self._places)

    def _hand_over(self, stream: BatchStream, prepared: Prepared) -> None:
        if stream not in self._open or self._worker is None:
            return
        stream.begin(prepared)
        stream.job = Job(prepared, stream.receive)
        self._worker.submit(stream.job)

    def _post(self, news: Sequence[tuple[Job, News]]) -> None:
        """Hand the worker's news to the event loop, all of one token at once."""
        with suppress(RuntimeError):  # the loop was closed without `stop`: nobody listens any more
            self._loop.call_soon_threadsafe(_deliver, news)

    def _left(self, stream: BatchStream, begun: float) -> None:
        self._reply_seconds += 0.1 * (time.monotonic() - begun - self._reply_seconds)
        self._open.discard(stream)
        if not self._open:
            self._idle.set()


def _deliver(news: Sequence[tuple[Job, News]]) -> None:
    for job, one in news:
        job.receive(one)
