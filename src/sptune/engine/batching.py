"""The engine on this machine for many users: one base model, any adapters and prompts in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from sptune.engine.batch.slot_rows import BLOCK
from sptune.engine.batch.worker import Job, News, Worker
from sptune.engine.queued import QueuedEngine, check_least
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.engine.prepared import Prepared
    from sptune.engine.reply_stream import ReplyStream
    from sptune.model.load import LoadedBase


class BatchingEngine(QueuedEngine):
    """A `ServingEngine` on a model in this process: continuous batching.

    Replies advance together, one token a step, whatever adapter, prompt and decoding they use. A request joins between
    two steps, as soon as there is a slot and memory for it; those whose prompt was chosen first come first. Its tokens
    are those it would get alone, up to the rounding of the model's number format. Models that cannot be batched like
    that (`prefix.find_way`) generate in turn.

    Args:
        base: the base model; nothing else may train or change it meanwhile.
        slots: replies that are generated at a time; one that K prompts speak together takes K.
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
        check_least(places=(places, BLOCK), prefill=(prefill, 1))
        super().__init__(base, slots=slots, queue_limit=queue_limit, adapter_limit=adapter_limit)
        self._places, self._prefill = places // BLOCK * BLOCK, prefill
        self._worker: Worker | None = None

    def _room(self, speakers: int) -> int:
        if speakers > self._slots:
            raise UsageError(
                f"decoding: {speakers} prompts that speak together take {speakers} slots, this server has {self._slots}; raise --slots, or let one "
                "speak (top1)"
            )
        return self._places // speakers // BLOCK * BLOCK

    @property
    def _running(self) -> int:
        return 0 if self._worker is None else self._worker.running

    async def _start(self) -> None:
        self._worker = await asyncio.to_thread(
            Worker, self._backbone, slots=self._slots, places=self._places, prefill=self._prefill, post=self._post
        )
        self._worker.start()

    async def _stop(self) -> None:
        if self._worker is not None:
            await asyncio.to_thread(self._worker.stop)
            await self._idle.wait()
            self._worker = None

    async def _answer(self, stream: ReplyStream, prepared: Prepared) -> None:
        assert self._worker is not None, "requests are taken after the start, and given up before the stop"
        job = Job(prepared, stream.receive)
        stream.give_up = job.close
        self._worker.submit(job)

    def _post(self, news: Sequence[tuple[Job, News]]) -> None:
        """Hand the worker's news to the event loop, all of one token at once."""
        with suppress(RuntimeError):  # the loop was closed without `stop`: nobody listens any more
            self._loop.call_soon_threadsafe(_deliver, news)


def _deliver(news: Sequence[tuple[Job, News]]) -> None:
    for job, one in news:
        job.receive(one)
