"""Who may come in. Everything is denied that is not expressly allowed, before anything else looks at the request."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from sptune.server.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from sptune.server.keys import KeyFile

ADMIN = "/admin/"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in, and where.

    Attributes:
        keys: of all routes; None: no key is asked for.
        admin_keys: of the routes below /admin, which are closed where it is None.
        open_paths: exact paths that need no key.
        hosts: names that the request may be addressed to where no key is set; None: any.
    """

    keys: KeyFile | None
    admin_keys: KeyFile | None
    open_paths: Collection[str]
    hosts: Collection[str] | None


class Guard:
    """ASGI middleware that lets requests through or answers 401 and 403.

    Args:
        app: what is guarded.
        access: the rules.
    """

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or not."""
        if scope["type"] == "http" and (refusal := self._refusal(scope["path"], Headers(scope=scope))) is not None:
            scope["state"]["note"].error = refusal.code
            await refusal.response()(scope, receive, send)
        elif scope["type"] in {"http", "lifespan"}:
            await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        access = self._access
        if path.startswith(ADMIN):
            if access.admin_keys is None:
                return ApiError(
                    404, "not_found", "there is no such route; the admin routes are off without an admin key"
                )
            return _check(access.admin_keys, headers)
        if path in access.open_paths:
            return None
        if access.keys is not None:
            return _check(access.keys, headers)
        if access.hosts is not None and _host_name(headers.get("host", "")) not in access.hosts:
            # A page of another site can point its own name at this machine, and would then read the answers.
            return ApiError(
                403,
                "unknown_host",
                "requests for this host name are not answered; set a key, or the name in allowed_hosts",
            )
        return None


def _check(keys: KeyFile, headers: Headers) -> ApiError | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and keys.accepts(key.strip()):
        return None
    what = "the key is wrong" if key else "a key is needed"
    return ApiError(401, "invalid_api_key", f"{what}; send one that this server knows as Authorization: Bearer KEY")


def _host_name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
