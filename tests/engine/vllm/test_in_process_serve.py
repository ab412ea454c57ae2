"""`sptune serve --engine vllm` as a user runs it: a server with vLLM in its process, and Ctrl-C in its terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from engine.vllm.real_vllm import wait_for
from server.live_server import events
from sptune.model.spt import SPTModel

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    SPTModel.from_base("smollm2-135m", num_prompts=2, prompt_length=4, template="chat").save_pretrained(folder)
    return folder


def _serve(*options: str) -> list[str]:
    return [sys.executable, "-m", "sptune.cli.main", "serve", "--engine", "vllm", *options]


def test_open_replies_end_after_ctrl_c(adapter: Path, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to all processes of the server; those of vLLM go on until the open replies have ended."""
    log, url = tmp_path / "log", "http://127.0.0.1:18753"
    command = _serve(f"bench={adapter}", "--port", "18753", "--slots", "2", "--places", "2048", "--dtype", "float32")
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for(url, server, log)
        asked = {"messages": [{"role": "user", "content": "count to one hundred"}], "max_tokens": 200, "stream": True}
        body = {"model": "bench", "temperature": 0, **asked}
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as response:
            lines = response.iter_text()
            text = next(lines)
            os.killpg(server.pid, signal.SIGINT)
            text += "".join(lines)
        assert events(text)[-1] == "[DONE]"
        assert server.wait(120) == 0, log.read_text()[-3000:]
        assert "Traceback" not in log.read_text()
    finally:
        server.kill()


def test_ctrl_c_while_it_starts_leaves_nothing_behind(adapter: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            _serve(f"bench={adapter}", "--port", "0"), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        process = psutil.Process(server.pid)
        while not any("resource_tracker" not in " ".join(child.cmdline()) for child in process.children()):
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(0.1)
        children = process.children(recursive=True)
        os.killpg(server.pid, signal.SIGINT)
        server.wait(60)
        _, left = psutil.wait_procs(children, timeout=30)
        assert not left
        assert "Traceback" not in log.read_text()
    finally:
        server.kill()


def test_memory_that_does_not_suffice_is_told(adapter: Path) -> None:
    done = subprocess.run(
        _serve(f"bench={adapter}", "--port", "0", "--places", str(2**31)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 5
    assert "lower --places" in done.stderr
