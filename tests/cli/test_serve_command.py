"""`sptune serve` as a user starts and stops it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from small_run import run_cli, save_base
from sptune import __version__
from sptune.cli.serve import base_of, greeting, make_engine
from sptune.engine.batching import BatchingEngine
from sptune.errors import UsageError
from sptune.model.load import LoadedBase
from sptune.server.settings import ServerSettings
from tiny import tiny_spt


@pytest.fixture(scope="module")
def base(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tiny_base, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sailor" / "adapter"
    tiny_spt(tiny_base).save_pretrained(folder)
    return folder


def wait_until_refused(url: str) -> None:
    """Until no new connection is taken."""
    address = urllib.parse.urlsplit(url)
    for _ in range(200):
        try:
            socket.create_connection((address.hostname, address.port), timeout=1).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("connections are still taken")


@dataclass
class Served:
    """A `sptune serve` process, and the file that it logs to."""

    process: subprocess.Popen[str]
    log: Path

    def greeting(self) -> str:
        """What is said once the server answers."""
        assert self.process.stdout
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        return "".join(lines)


@pytest.fixture
def served(base: Path, adapter: Path, tmp_path: Path) -> Iterator[Served]:
    command = [sys.executable, "-m", "sptune.cli.main", "serve", str(adapter), "--base", str(base), "--port", "0"]
    options = ["--record", str(tmp_path / "chats.db"), "--default-temperature", "0", "--max-tokens", "900"]
    environment = {**os.environ, "SPTUNE_SERVE_SLOTS": "2", "OMP_NUM_THREADS": "1"}
    with (
        (tmp_path / "log.jsonl").open("w", encoding="utf-8") as log,
        subprocess.Popen(command + options, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        yield Served(process, tmp_path / "log.jsonl")
        process.kill()


def test_it_greets_answers_and_ends_open_replies_when_it_is_told_to_stop(served: Served):
    greeting = served.greeting()
    assert f"sptune {__version__} serves" in greeting
    assert "adapter   sailor: 3 prompts of 4 virtual tokens" in greeting
    assert "key       none: only this machine can connect" in greeting
    assert "chats.db" in greeting
    [url] = [line.split()[1].rstrip("/") for line in greeting.splitlines() if line.startswith("page")]
    with urllib.request.urlopen(f"{url}/") as page:
        assert b"<html" in page.read()
    body = {"model": "sailor", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 400, "stream": True}
    body |= {"prompt": 0, "logit_bias": {}, "temperature": 1.0, "seed": 2}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as stream:
        first = stream.readline()
        served.process.send_signal(signal.SIGTERM)
        wait_until_refused(url)
        rest = stream.read().decode()
    assert b'"role":"assistant"' in first
    assert rest.endswith("data: [DONE]\n\n"), "what had begun was ended"
    assert served.process.wait(20) == 0
    logged = [json.loads(line) for line in served.log.read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in logged] == ["started", "request", "request", "stopped"]


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """The command sets the log up for its process, which here is that of all tests."""
    loggers = [logging.getLogger(name) for name in ("sptune", "uvicorn", "asyncio")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = run_cli(monkeypatch, "serve", *arguments)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_help_has_every_option_and_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    code, out = run(monkeypatch, capsys, "--help")
    assert code == 0
    for name in ServerSettings.model_fields:
        assert name == "adapters" or f"--{name.replace('_', '-')}" in out
    assert "sptune serve --config serve.yaml --port 9000" in [line.strip() for line in out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 3, "adapters: none is given"),
        (
            ["--base", "x", "--host", "0.0.0.0"],
            3,
            "--host: 0.0.0.0 can be reached by others and no key is set; give --api-key-file",
        ),
        (["a=x", "a=y"], 3, "[NAME=]ADAPTER: two adapters are called 'a'; write OTHER=y to tell them apart"),
        (["--base", "x", "--slots", "0"], 3, "--slots: "),
        (["--base", "x", "--port", "many"], 2, "--port"),
        (["--base", "x", "--engine", "vllm"], 2, "vllm is not installed here"),
        (["--base", "x", "--engine", "vllm:localhost:1"], 2, "write vllm:http://HOST:PORT"),
        (["--base", "x", "--engine", "local:x"], 2, "is not one of local, vllm and vllm:http"),
        (["--base", "x", "--config", "none.yaml"], 3, "--config: none.yaml: no such file"),
        (["./nothing/here"], 6, "nothing/here"),
        (["--base", "./nothing"], 5, "model.base: ./nothing is no folder"),
        (["--base", "x", "--host", "no.such.host.invalid", "--insecure"], 2, "cannot listen"),
    ],
)
def test_what_is_wrong_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
):
    monkeypatch.setenv("SPTUNE_SERVE_PORT", "0")
    found, text = run(monkeypatch, capsys, *arguments)
    assert (found, message in text) == (code, True), text
    assert "Traceback" not in text


def test_without_the_packages_of_the_server_it_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for package in ("uvicorn", "aiohttp"):
        monkeypatch.setitem(sys.modules, package, None)
    code, text = run(monkeypatch, capsys, "--base", "x")
    told = "serve: needs packages that are not installed (uvicorn, aiohttp); pip install 'sptune[server]'"
    assert (code, told in text) == (2, True), text


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = run(monkeypatch, capsys, "--base", "x", "--port", taken.getsockname()[1])
    assert code == 2
    assert "choose another --port" in text


@pytest.mark.parametrize("fault", ["adapter", "keys", "personas"])
def test_a_server_that_cannot_start_says_why_and_stops(
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    base: Path,
    adapter: Path,
    tmp_path: Path,
):
    empty = tmp_path / "empty.txt"
    empty.write_text("", encoding="utf-8")
    arguments: dict[str, list[object]] = {
        "adapter": [f"other={tmp_path}"],
        "keys": ["--api-key-file", empty],
        "personas": ["--personas", empty],
    }
    code, text = run(monkeypatch, capsys, adapter, "--base", base, "--port", 0, *arguments[fault])
    assert code in {2, 4, 6}
    assert str(tmp_path) in text
    assert "Traceback" not in text


def test_the_base_model_is_what_the_first_adapter_says(adapter: Path):
    assert base_of(ServerSettings(adapters={"sailor": str(adapter)})) == ("tiny", None)
    assert base_of(ServerSettings(adapters={"sailor": str(adapter)}, base="other")) == ("other", None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "(fields: URL/docs)"),
        ({"api_key_file": "keys.txt"}, "(fields: URL/docs, with a key; --public-routes /docs opens it)"),
        ({"api_key_file": "keys.txt", "public_routes": ["/docs"]}, "(fields: URL/docs)"),
    ],
)
def test_the_greeting_says_where_a_browser_may_read_the_fields(
    tiny_base: LoadedBase, options: dict[str, object], told: str
):
    settings = ServerSettings.model_validate({"base": "tiny", **options})
    assert f"API       URL/v1  {told}\n" in greeting(BatchingEngine(tiny_base, slots=1, queue_limit=1), settings, "URL")


def test_engines_that_are_not_there(base: Path):
    for name in ("vllm:x", "magic", "local:1"):
        with pytest.raises(UsageError, match="--engine"):
            make_engine(ServerSettings(base=str(base), engine=name))
