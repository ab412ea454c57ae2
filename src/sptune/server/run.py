"""A server from its first breath to its last: listen, start the engine, serve, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import uvicorn

from sptune.errors import StorageError, UsageError
from sptune.server.app import make_app
from sptune.server.settings import base_name

if TYPE_CHECKING:
    from sptune.engine.serving import ServingEngine
    from sptune.server.records.store import Records
    from sptune.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_BACKLOG = 2048
_PURGE_SECONDS = 3600.0


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that listens, before anything slow is done.

    Raises:
        UsageError: the address cannot be listened on.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        place = f"host, port: cannot listen on {settings.host}:{settings.port}"
        raise UsageError(
            f"{place} ({error.strerror or error}); choose another --port, or --port 0 for a free one"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, settings: ServerSettings) -> str:
    """Where the server is found."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


class Server(uvicorn.Server):
    """uvicorn, which after SIGTERM or SIGINT returns when all is drained, so that the engine can be stopped too."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal; a second SIGINT does not wait for open requests."""
        if threading.current_thread() is not threading.main_thread():
            yield  # the process belongs to somebody else
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def make_server(engine: ServingEngine, settings: ServerSettings, *, records: Records | None = None) -> Server:
    """The HTTP server around an engine.

    Raises:
        UsageError: a key file without a key.
        DataError: a file of personas that cannot be read.
    """
    return Server(
        uvicorn.Config(
            make_app(engine, settings, records=records),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        )
    )


@asynccontextmanager
async def running(
    engine: ServingEngine, settings: ServerSettings, *, records: Records | None = None
) -> AsyncIterator[None]:
    """An engine that runs with all its adapters, and records that are kept no longer than they may be.

    Raises:
        AdapterError: one of the adapters cannot be loaded.
        UsageError: one of them is called like the base model.
    """
    if (own := base_name(engine.base)) in settings.adapters:
        raise UsageError(f"adapters: {own!r} is the base model's own name; write OTHER={settings.adapters[own]}")
    await engine.start()
    purging = asyncio.create_task(_purge(records)) if records is not None else None
    try:
        for name, path in settings.adapters.items():
            await engine.adapters.add(name, path)
        yield
    finally:
        if purging is not None:
            purging.cancel()
        await engine.stop()


async def serve(
    engine: ServingEngine,
    settings: ServerSettings,
    *,
    listener: socket.socket,
    records: Records | None = None,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; open requests then get `drain_seconds` to end, and no new ones are taken.

    Args:
        engine: not started yet.
        settings: all options.
        listener: see `listen`.
        records: where conversations are kept; None: nowhere.
        started: called once requests are answered.

    Raises:
        SptError: keys, personas or adapters that cannot be read.
    """
    server = make_server(engine, settings, records=records)
    async with running(engine, settings, records=records):
        started()
        _log.info("started", extra={"note": {"host": settings.host, "port": listener.getsockname()[1]}})
        await server.serve(sockets=[listener])
    _log.info("stopped")


async def _purge(records: Records) -> None:
    """Delete what is older than the limit, once an hour."""
    while True:
        await asyncio.sleep(_PURGE_SECONDS)
        try:
            await asyncio.to_thread(records.purge)
        except StorageError as error:
            _log.error("purge.failed", extra={"note": {"reason": str(error)}})
