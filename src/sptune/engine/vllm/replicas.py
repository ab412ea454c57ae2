"""Any number of vLLM servers as one `TokenSource`: looked after, the least busy one first, another one when one dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sptune.engine.serving import OverloadedError, UnavailableError
from sptune.engine.vllm.completion import completion_body
from sptune.engine.vllm.probe import Probe
from sptune.engine.vllm.replica import Replica, ReplicaError
from sptune.errors import ModelError, UsageError
from sptune.model.token_text import TokenText

if TYPE_CHECKING:
    from sptune.engine.prepared import Prepared
    from sptune.engine.vllm.token_source import TokenNews
    from sptune.model.load import LoadedBase

_TRIES = 3  # of a request, each on another replica


class Replicas:
    """The `TokenSource` of a gateway. It keeps nothing of a request beyond its reply.

    A replica that cannot be reached is given no requests until it answers again and passes the `Probe`.

    Args:
        urls: of the replicas, see `parse_urls`.
        base: the embedding table held here, see `load_embeddings`.
        slots: requests that are sent at a time, to all replicas together.
        key: of the replicas, where they ask for one.
        connect_seconds: time to connect to a replica.
        read_seconds: time in which a replica has to send the next token.
        look_seconds: from one look at a replica to the next.
    """

    def __init__(
        self,
        urls: Sequence[str],
        base: LoadedBase,
        *,
        slots: int,
        key: str | None = None,
        connect_seconds: float = 5.0,
        read_seconds: float = 30.0,
        look_seconds: float = 1.0,
    ) -> None:
        self.slots = slots
        self._backbone = base.backbone
        self._urls, self._key = urls, key
        self._connect_seconds, self._read_seconds, self._look_seconds = connect_seconds, read_seconds, look_seconds
        self._replicas: list[Replica] = []
        self._requests = 0

    @property
    def alive(self) -> bool:
        """See `TokenSource.alive`."""
        return any(replica.up for replica in self._replicas)

    @property
    def window(self) -> int | None:
        """See `TokenSource.window`; that of the replica that takes least."""
        return min((replica.window for replica in self._replicas if replica.window), default=None)

    async def start(self) -> None:
        """Look at all replicas. One that cannot be reached yet is waited for while the others serve.

        Raises:
            ModelError: replicas that serve another model, or were started without `--enable-prompt-embeds`.
        """
        self._replicas = [self._replica(url) for url in self._urls]
        self._probe = Probe(self._backbone)
        found = await asyncio.gather(*(one.look(self._probe) for one in self._replicas), return_exceptions=True)
        faults = [fault for fault in found if fault is not None]
        if faults:
            await self._close()
            if other := next((fault for fault in faults if not isinstance(fault, ModelError)), None):
                raise other
            raise ModelError("--engine: " + "; ".join(map(str, faults)))
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """See `TokenSource.stop`."""
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await self._close()

    async def tokens(self, prepared: Prepared) -> AsyncGenerator[TokenNews, None]:
        """See `TokenSource.tokens`. A replica that fails before the first token is replaced, one that fails later is not.

        Raises:
            UsageError: a replica refuses the request, which no other one would take.
            OverloadedError: no replica that was asked has room.
            UnavailableError: none is up, those that were asked failed, or one failed after the first token.
        """
        body = await asyncio.to_thread(completion_body, prepared)
        decode = TokenText(prepared.model.encoder.tokenizer)
        tried: list[Replica] = []
        failure: Exception = UnavailableError("the model cannot be reached now; try again later")
        while len(tried) < _TRIES and (replica := self._pick(tried)) is not None:
            tried.append(replica)
            begun = False
            try:
                async with aclosing(replica.complete(body, decode=decode, count=prepared.logprobs or 0)) as told:
                    async for news in told:
                        begun = True
                        yield news
                return
            except OverloadedError as error:
                failure = error
            except ReplicaError as error:
                failure = UnavailableError("the model failed; try again")
                replica.note(error)
            if begun:  # what was said cannot be taken back, and another replica would not go on with the same
                raise UnavailableError("the model failed; try again")
        raise failure

    def _pick(self, tried: Collection[Replica]) -> Replica | None:
        """The replica with the fewest open requests, of equals the one that was used longest ago; None: none is left."""
        ready = [replica for replica in self._replicas if replica.up and replica not in tried]
        if not ready:
            return None
        self._requests += 1
        replica = min(ready, key=lambda one: (one.open, one.used))
        replica.used = self._requests
        return replica

    async def _watch(self) -> None:
        """Look at every replica again and again, each in its own time: one that hangs does not hold up the others."""
        await asyncio.gather(*map(self._watch_one, self._replicas))

    async def _watch_one(self, replica: Replica) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await replica.look(self._probe)
            except ModelError:
                pass  # in the log; it may be started again in another way
            except Exception as error:  # whatever is wrong with one answer must not end the watch
                logging.getLogger(__name__).error("replica.look_failed", exc_info=error)

    def _replica(self, url: str) -> Replica:
        return Replica(url, key=self._key, connect_seconds=self._connect_seconds, read_seconds=self._read_seconds)

    async def _close(self) -> None:
        await asyncio.gather(*(replica.close() for replica in self._replicas))
        self._replicas = []


def parse_urls(text: str) -> list[str]:
    """The addresses in `http://HOST:PORT[,http://HOST:PORT ...]`.

    Raises:
        UsageError: one that is none, that is there twice, or that holds a password.

    >>> parse_urls("http://a:8001,https://b/vllm")
    ['http://a:8001', 'https://b/vllm']
    """
    urls = [url.strip().rstrip("/") for url in text.split(",")]
    for url in urls:
        try:
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.username is not None or parts.query or parts.fragment:
            raise UsageError(f"--engine: {url!r} is no address of a vLLM server; write vllm:http://HOST:PORT")
        if urls.count(url) > 1:
            raise UsageError(f"--engine: {url} is there twice; name each replica once")
    return urls
