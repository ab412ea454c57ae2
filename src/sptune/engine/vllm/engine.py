"""The engine for many users on vLLM: prompts are chosen here, from the embedding table; tokens come from a `TokenSource`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from sptune.engine.queued import QueuedEngine
from sptune.engine.reply_pieces import ReplyPieces
from sptune.engine.serving import Load, UnavailableError
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.engine.loaded_adapter import LoadedAdapter
    from sptune.engine.prepared import Prepared
    from sptune.engine.reply_stream import ReplyStream
    from sptune.engine.serving import ServingRequest
    from sptune.engine.vllm.token_source import TokenNews, TokenSource
    from sptune.model.generate import Decoding
    from sptune.model.load import LoadedBase


class VllmEngine(QueuedEngine):
    """A `ServingEngine` on vLLM. vLLM is given the embeddings of prompt and context, and batches requests itself.

    Args:
        base: see `load_embeddings`.
        source: what turns embeddings into tokens; started and stopped with the engine.
        queue_limit: requests that may wait for one of the source's slots; beyond it they are refused.
        adapter_limit: the most adapters in memory; None is no limit.

    Raises:
        UsageError: a number out of range.
    """

    def __init__(
        self, base: LoadedBase, source: TokenSource, *, queue_limit: int = 64, adapter_limit: int | None = None
    ) -> None:
        super().__init__(base, slots=source.slots, queue_limit=queue_limit, adapter_limit=adapter_limit)
        self._source = source
        self._at_work = 0

    def load(self) -> Load:
        """See `ServingEngine.load`; no slots and no queue while no vLLM is alive."""
        load = super().load()
        return load if self._source.alive else replace(load, slots=0, queue_limit=0)

    def submit(self, request: ServingRequest) -> ReplyStream:
        """See `ServingEngine.submit`."""
        if not self._source.alive:
            raise UnavailableError("the model cannot be reached now; try again later")
        return super().submit(request)

    def _room(self, speakers: int) -> int | None:
        return self._source.window

    @property
    def _running(self) -> int:
        return self._at_work

    async def _start(self) -> None:
        self._free = asyncio.Semaphore(self._slots)
        await self._source.start()

    async def _stop(self) -> None:
        await self._source.stop()

    def _prepare(self, request: ServingRequest, adapter: LoadedAdapter) -> Prepared:
        """One prompt speaks, also where the adapter is meant for several that speak together and the request does not say."""
        check_decoding(request.decoding)
        return super()._prepare(replace(request, decoding=replace(request.decoding, kind="top1")), adapter)

    async def _answer(self, stream: ReplyStream, prepared: Prepared) -> None:
        """Pass the source's tokens on as pieces. Cancelled with its stream: that aborts the request in vLLM."""
        reply = ReplyPieces(prepared)
        async with self._free:
            self._at_work += 1
            try:
                async with aclosing(self._source.tokens(prepared)) as told:
                    async for news in told:
                        _tell(stream, reply, news)
                        if reply.finish and not news.finish:
                            return  # a stop text: vLLM does not know that it is over
            finally:
                self._at_work -= 1
        if reply.finish is None:
            raise UnavailableError("the reply broke off; try again later")


def _tell(stream: ReplyStream, reply: ReplyPieces, news: TokenNews) -> None:
    """Send the pieces that new tokens are told in."""
    for number, token in enumerate(news.tokens):
        piece = reply.say(token, news.logprobs[number : number + 1])
        if piece is not None:
            stream.receive(piece)
        if reply.finish:
            return
    if news.finish:
        stream.receive(reply.end(news.finish))


def check_decoding(decoding: Decoding) -> None:
    """Refuse what vLLM has no equal of.

    Raises:
        UsageError: names the option.
    """
    if decoding.kind not in (None, "top1"):
        raise UsageError(
            f"decoding: {decoding.kind!r} is not served by vLLM, where one prompt speaks; use top1, or --engine local"
        )
    for name in ("no_repeat_ngram_size", "no_repeat_history_ngram"):
        if value := getattr(decoding, name):
            raise UsageError(f"{name}: {value} is not served by vLLM; leave it out, or use --engine local")
