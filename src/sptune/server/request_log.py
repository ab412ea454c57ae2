"""The outermost layer: gives each request an id, answers what nobody else did, and writes the log and the metrics."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders

from sptune.server.errors import CLIENT_GONE, as_api_error
from sptune.server.note import Note

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from sptune.server.metrics import Metrics

_log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class RequestLog:
    """ASGI middleware around everything else.

    Args:
        app: everything else.
        metrics: where answers are counted.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note = Note(_request_id(scope))
        scope.setdefault("state", {})["note"] = note
        sent = _Sent(send, note.request_id)
        began = time.perf_counter()
        try:
            await self._app(scope, receive, sent)
        except Exception as error:  # the last place where it can become an answer
            answer = as_api_error(error)
            note.error = answer.code
            _log.error("request.failed", exc_info=error, extra={"note": {"request_id": note.request_id}})
            if not sent.status:
                await answer.response()(scope, receive, sent)
        finally:
            self._finish(scope, note, sent.status or CLIENT_GONE, time.perf_counter() - began)

    def _finish(self, scope: Scope, note: Note, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")  # as it is declared: a path may hold what a user wrote
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if note.error:
            self._metrics.errors.labels(note.error).inc()
        facts = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        _log.info("request", extra={"note": note.fields() | facts})


class _Sent:
    """`send` that adds the request's id to the headers and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
        await self._send(message)


def _request_id(scope: Scope | dict[str, Any]) -> str:
    """The client's own id where it is one, else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex
