"""A real server in a thread: an engine, the application and uvicorn on a free port."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from sptune.engine.serving import ServingEngine
from sptune.server.records.store import Records
from sptune.server.run import Server, listen, make_server, running, url_of
from sptune.server.settings import ServerSettings


@dataclass
class LiveServer:
    """Where a running server is, and what it is made of. `http` is a client without a key."""

    url: str
    http: httpx2.Client
    engine: ServingEngine
    settings: ServerSettings
    loop: asyncio.AbstractEventLoop
    server: Server

    def call(self, coroutine: Any) -> Any:
        """The result of a coroutine in the server's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


@contextmanager
def live_server(
    engine: ServingEngine, settings: ServerSettings, *, records: Records | None = None
) -> Iterator[LiveServer]:
    """Serve from another thread until the block ends."""
    listener = listen(settings)
    live: list[LiveServer] = []
    failed: list[BaseException] = []
    ready = threading.Event()

    async def main() -> None:
        server = make_server(engine, settings, records=records)
        async with running(engine, settings, records=records):
            url = url_of(listener, settings)
            with httpx2.Client(base_url=url, timeout=30) as http:
                live.append(LiveServer(url, http, engine, settings, asyncio.get_running_loop(), server))
                ready.set()
                await server.serve(sockets=[listener])

    def thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    runner = threading.Thread(target=thread)
    runner.start()
    try:
        assert ready.wait(30)
        if failed:
            raise failed[0]
        yield live[0]
    finally:
        if live:
            live[0].server.should_exit = True
        runner.join(30)
        listener.close()
    assert not runner.is_alive(), "the server did not stop"
    if failed:
        raise failed[0]


def events(text: str) -> list[Any]:
    """The data of server-sent events; `[DONE]` stays as it is."""
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [event if event == "[DONE]" else json.loads(event) for event in found]


def chat(text: str = "do you sing ?", **fields: Any) -> dict[str, Any]:
    """A chat request to the adapter `sailor`, greedy and short."""
    body = {"model": "sailor", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 6}
    return body | fields
