"""Request bodies: read whole, within a size and a time, before anything else is done for the request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from sptune.server.errors import CLIENT_GONE, ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware that hands on bodies of a bounded size only.

    Args:
        app: what takes the body.
        max_bytes: the largest body.
        seconds: time in which it has to arrive.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 408 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            late = f"the body did not arrive within {self._seconds:g} s; send it faster"
            await self._refuse(ApiError(408, "body_timeout", late), scope, receive, send)
        except ApiError as error:
            await self._refuse(error, scope, receive, send)
        else:
            await self._app(scope, _replayed(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(CLIENT_GONE, "client_gone", "the client went away")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                raise self._too_large()
            more = message.get("more_body", False)
        return b"".join(parts)

    def _too_large(self) -> ApiError:
        return ApiError(413, "body_too_large", f"the body is larger than this server allows, {self._max_bytes:,} bytes")

    @staticmethod
    async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["note"].error = error.code
        response = error.response()
        response.headers["Connection"] = "close"  # the rest of the body is not read
        await response(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body once more, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
