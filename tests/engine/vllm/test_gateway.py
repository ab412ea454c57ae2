"""`sptune serve --engine vllm:http://...`: the HTTP server in front of replicas."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.vllm.replica_server import ReplicaServer
from server.live_server import LiveServer, events, live_server
from sptune.cli.serve import make_engine
from sptune.engine.vllm.engine import VllmEngine
from sptune.errors import ModelError, UsageError
from sptune.server.settings import ServerSettings

PATH = "/v1/chat/completions"


@pytest.fixture
def replicas(replica: Callable[..., ReplicaServer]) -> list[ReplicaServer]:
    return [replica(key="secret"), replica(key="secret")]


@pytest.fixture
def make_settings(base_folder: Path, folders: dict[str, Path], tmp_path: Path) -> Callable[..., ServerSettings]:
    def make(urls: str, **options: Any) -> ServerSettings:
        key = tmp_path / "key.txt"
        key.write_text("secret\n", encoding="utf-8")
        adapters = {name: str(path) for name, path in folders.items()}
        given = {"base": str(base_folder), "port": 0, "vllm_api_key_file": str(key), "replica_seconds": 2.0, **options}
        return ServerSettings.model_validate({"adapters": adapters, "engine": f"vllm:{urls}", **given})

    return make


@pytest.fixture
def live(replicas: list[ReplicaServer], make_settings: Callable[..., ServerSettings]) -> Iterator[LiveServer]:
    settings = make_settings(",".join(replica.url for replica in replicas))
    with live_server(make_engine(settings), settings) as server:
        yield server


def chat(**fields: Any) -> dict[str, Any]:
    body = {"model": "one", "messages": [{"role": "user", "content": "do you sing ?"}], "temperature": 0}
    return body | {"max_tokens": 12} | fields


def until_ready(live: LiveServer, status: int) -> None:
    for _ in range(100):
        if live.http.get("/ready").status_code == status:
            return
        time.sleep(0.05)
    raise AssertionError(f"/ready is not {status}")


def test_a_chat_and_the_death_of_replicas_as_a_client_sees_them(live: LiveServer, replicas: list[ReplicaServer]):
    whole = live.http.post(PATH, json=chat()).json()
    assert whole["spt"]["prompt"] in range(3)
    assert whole["usage"]["completion_tokens"] == 12
    replicas[0].dies_after = replicas[1].dies_after = 3
    first, *_, last = events(live.http.post(PATH, json=chat(stream=True)).text)
    assert first["spt"] == whole["spt"]
    assert last["error"]["code"] == "unavailable"
    assert "127.0.0.1" not in json.dumps(last), "addresses of replicas are no affair of clients"
    for replica in replicas:
        replica.ill, replica.dies_after = True, None
    until_ready(live, 503)
    answer = live.http.post(PATH, json=chat())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["error"]["code"] == "unavailable"
    assert "sptune_slots 0.0" in live.http.get("/metrics").text
    assert live.http.get("/health").status_code == 200
    replicas[1].ill = False
    until_ready(live, 200)
    assert live.http.post(PATH, json=chat()).json()["choices"] == whole["choices"]


def test_what_a_client_gets_wrong(live: LiveServer):
    window = live.http.post(PATH, json=chat(max_tokens=1024))
    assert (window.status_code, window.json()["error"]["code"]) == (400, "context_length_exceeded")
    unknown = live.http.post(PATH, json=chat(model="three"))
    assert unknown.status_code == 404


def test_a_gateway_holds_no_layers(make_settings: Callable[..., ServerSettings]):
    engine = make_engine(make_settings("http://127.0.0.1:9"))
    assert isinstance(engine, VllmEngine)
    assert not engine._backbone.has_layers


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"engine": "vllm:localhost:8000"}, UsageError, "is no address of a vLLM server"),
        ({"places": 9000}, UsageError, "--places: has no effect with --engine vllm:http"),
        ({"device": "cpu"}, UsageError, "--device: has no effect"),
        ({"vllm_api_key_file": "none.txt"}, UsageError, "--vllm-api-key-file: none.txt cannot be read"),
        ({"vllm_api_key_file": "two.txt"}, UsageError, "does not hold one key"),
        ({"base": "./nothing"}, ModelError, "./nothing is no folder"),
    ],
)
def test_options_that_are_wrong(
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    make_settings: Callable[..., ServerSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "two.txt").write_text("one\ntwo\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        make_engine(make_settings("http://127.0.0.1:9", **options))
