"""Servers in processes of their own, and clients that stream from them. What the serving benchmarks share."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2

Item = TypeVar("Item")
START_SECONDS = 900


@dataclass(frozen=True)
class Reply:
    """One reply as its client saw it: seconds to the first token, tokens read and tokens generated."""

    first: float
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True)
class Run:
    """Many replies, and new tokens a second."""

    replies: tuple[Reply, ...]
    throughput: float

    @property
    def first(self) -> float:
        """Median time to the first token."""
        return statistics.median(reply.first for reply in self.replies)


def verdict(what: str, value: float, bar: float, *, most: bool, unit: str = "") -> None:
    met = value <= bar if most else value >= bar
    limit = "at most" if most else "at least"
    print(f"{what}: {value:.3g}{unit} ({limit} {bar:g}{unit}: {'met' if met else 'NOT met'})", flush=True)


@contextmanager
def server(module: str, *arguments: str, log: Path) -> Iterator[tuple[str, int]]:
    """URL and process id of `python -m module arguments --host --port`, once it answers /health; it is stopped with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", module, *arguments, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(url, process, log)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"{process.args} did not start:\n{log.read_text()[-3000:]}")
        try:
            if httpx2.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx2.HTTPError:
            time.sleep(0.5)
    sys.exit(f"{process.args} does not answer:\n{log.read_text()[-3000:]}")


async def stream(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> Reply:
    """The reply to a request, streamed."""
    begin, first, usage = time.perf_counter(), 0.0, {}
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            sys.exit(f"{path} answers {response.status_code}: {(await response.aread())[:500]!r}")
        async for line in response.aiter_lines():
            first = first or (time.perf_counter() - begin if line else 0.0)
            if '"usage":{' in line:
                usage = json.loads(line.removeprefix("data: "))["usage"]
    return Reply(first, usage["prompt_tokens"], usage["completion_tokens"])


async def crowd(ask: Callable[[Item], Awaitable[Reply]], items: Sequence[Item], clients: int) -> Run:
    """Clients that each ask for the next reply as soon as they have one, until all `items` are answered."""
    waiting, replies = iter(items), list[Reply]()

    async def client() -> None:
        for item in waiting:
            replies.append(await ask(item))

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - begin
    return Run(tuple(replies), sum(reply.tokens for reply in replies) / seconds)
