"""One vLLM server: asks it for tokens, looks whether it lives, and whether it serves the right model."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

import aiohttp

from sptune.engine.serving import OverloadedError, UnavailableError
from sptune.engine.vllm.completion import Decode, read_error, read_news
from sptune.errors import ModelError, SptError, UsageError

if TYPE_CHECKING:
    from sptune.engine.vllm.probe import Probe
    from sptune.engine.vllm.token_source import TokenNews

_log = logging.getLogger(__name__)

_PATH, _DATA, _END = "/v1/completions", b"data:", b"[DONE]"
_OK, _NOT_FOUND, _BUSY, _REFUSED, _NO_KEY, _STRANGE = (
    200,
    404,
    {429, 503},
    {400, 413, 422},
    {401, 403},
    {401, 403, 404, 405},
)
_TRUE_SECONDS = 120.0  # to the first tokens of a vLLM that has just started, which warms up with them
_IDLE_SECONDS = 2.0  # of a connection that is kept; vLLM closes them after 5, which a request must not run into


class ReplicaError(SptError):
    """A replica that failed on a request: another one may answer it."""


class ReplicaLostError(ReplicaError):
    """A replica that died, hangs, or became another server: it is to be given no more requests."""


class Replica:
    """A vLLM server behind HTTP. Used from one event loop.

    Args:
        url: `http://HOST:PORT`.
        key: sent as `Authorization: Bearer KEY`, where there is one.
        connect_seconds: time to connect.
        read_seconds: time from one token to the next; a replica that takes longer for all its replies hangs.

    Attributes:
        open: requests that it has.
        used: number of the request that it was given last.
        up: whether it is given requests.
        window: the most tokens of prompt, context and reply that it takes; None where it was not asked yet.
    """

    def __init__(self, url: str, *, key: str | None, connect_seconds: float, read_seconds: float) -> None:
        self.url = url
        self.open = self.used = 0
        self.up = False
        self.window: int | None = None
        self._reason = ""
        self._heard = 0.0  # when the last token of any reply came
        self._connect_seconds, self._read_seconds = connect_seconds, read_seconds
        self._client = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self._timeout(read_seconds),
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def complete(
        self, body: bytes, *, decode: Decode, count: int = 0, read_seconds: float | None = None
    ) -> AsyncGenerator[TokenNews, None]:
        """The reply to a request that `completion.make_body` made. Closing it aborts the request.

        Args:
            body: the request.
            decode: the text of a token, for log-probabilities.
            count: the most probable tokens that it asks for.
            read_seconds: time from one token to the next, where it is another than usual.

        Raises:
            UsageError: the request is refused.
            OverloadedError: the replica has no room.
            ReplicaLostError: it died, hangs, or is another server now.
            ReplicaError: it failed.
        """
        self.open += 1
        timeout, headers = self._timeout(read_seconds or self._read_seconds), {"Content-Type": "application/json"}
        try:
            async with self._client.post(
                f"{self.url}{_PATH}", data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                await _check(response)
                finished = False
                async for data in _events(response):
                    self._heard = time.monotonic()
                    if data != _END:
                        news = read_news(data, count=count, decode=decode)
                        finished = news.finish is not None
                        yield news
                if not finished:
                    raise ReplicaLostError("the connection ended within a reply")
        except aiohttp.SocketTimeoutError as error:
            if time.monotonic() - self._heard < self._read_seconds:  # others are answered: it is busy and does not hang
                raise OverloadedError("the model has no room; try again later", retry_after=1.0) from error
            raise ReplicaLostError(f"no token in {self._read_seconds:g} seconds") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ReplicaLostError(_reason(error)) from error
        except UnavailableError as error:
            raise ReplicaError(str(error)) from error
        finally:
            self.open -= 1

    async def look(self, probe: Probe) -> None:
        """See whether it lives; one that was down is probed before it is given requests again.

        Raises:
            ModelError: it lives, and is of no use as it was started.
        """
        try:
            async with self._client.get(f"{self.url}/health", allow_redirects=False) as response:
                if response.status == _NOT_FOUND:
                    raise ModelError(_no_vllm(self.url))
                if response.status != _OK:
                    raise ReplicaError(f"/health answers {response.status}")
            if not self.up:
                await self._prove(probe)
        except (aiohttp.ClientError, TimeoutError, ReplicaError, OverloadedError) as error:
            self._lose(_reason(error))
        except ModelError as error:
            self._lose(str(error))
            raise

    async def _prove(self, probe: Probe) -> None:
        """Take requests, where it serves the right model."""
        model = await self._served()
        self.window = model.get("max_model_len")
        await probe.check(self, model=str(model.get("root") or model.get("id")), read_seconds=_TRUE_SECONDS)
        self.up, self._reason = True, ""
        _log.info("replica.up", extra={"note": {"replica": self.url}})

    async def _served(self) -> dict[str, Any]:
        """What it says of its model."""
        async with self._client.get(f"{self.url}/v1/models", allow_redirects=False) as response:
            if response.status in _NO_KEY:
                raise ModelError(
                    f"{self.url} refuses the key; give the one that vLLM was started with (--vllm-api-key-file)"
                )
            answer = await response.read() if response.status == _OK else b""
        try:
            model: dict[str, Any] = json.loads(answer)["data"][0]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(_no_vllm(self.url)) from error
        return model

    def _timeout(self, read_seconds: float) -> aiohttp.ClientTimeout:
        """No limit for the whole of a reply, one for the time between two of its tokens."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds, sock_read=read_seconds)

    def note(self, error: ReplicaError) -> None:
        """Take note of a request that failed: in the log, and by giving no more to a replica that is lost."""
        if isinstance(error, ReplicaLostError):
            self._lose(str(error))
        else:
            _log.warning("replica.failed", extra={"note": {"replica": self.url, "reason": str(error)}})

    def _lose(self, reason: str) -> None:
        """Give it no requests until it was looked at."""
        if self.up or reason != self._reason:
            _log.warning("replica.down", extra={"note": {"replica": self.url, "reason": reason}})
        self.up, self._reason = False, reason


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of vLLM's server-sent events, each of which is one line."""
    rest = b""
    async for chunk in response.content.iter_any():
        *events, rest = (rest + chunk).split(b"\n\n")
        for event in events:
            if event.startswith(_DATA):
                yield event.removeprefix(_DATA).strip()


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raise what an answer that is not a reply says."""
    if response.status == _OK:
        return
    message, status = read_error(await response.read()), response.status
    if status in _BUSY:
        wait = response.headers.get("Retry-After", "")
        raise OverloadedError(
            "the model has no room; try again later", retry_after=float(wait) if wait.isdigit() else 1.0
        )
    if status in _REFUSED:
        raise UsageError(f"the model refuses the request ({message})")
    kind = ReplicaLostError if status in _STRANGE else ReplicaError
    raise kind(f"{_PATH} answers {status} ({message})")


def _no_vllm(url: str) -> str:
    return f"{url} does not answer like vLLM; give the address of a `vllm serve`, without /v1"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SptError) else f"{type(error).__name__}: {error}"
