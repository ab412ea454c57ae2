"""The log and the metrics: what happened, and never what was said."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, chat, live_server
from prometheus_client.parser import text_string_to_metric_families

from sptune.errors import StorageError, TrainingError
from sptune.server.limits import Limits
from sptune.server.logs import JsonFormatter, start_logging
from sptune.server.records.store import Records

PATH = "/v1/chat/completions"
SECRET = "mysecretword"
PATIENCE = 10.0  # seconds


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged, as `sptune serve` logs it."""
    loggers = [logging.getLogger(name) for name in ("sptune", "uvicorn", "asyncio")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    text = io.StringIO()
    start_logging("debug", text)
    yield text
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="module")
def recording(make_engine: Callable, make_settings: Callable, tmp_path_factory) -> Iterator[LiveServer]:
    file: Path = tmp_path_factory.mktemp("records") / "chats.db"
    records = Records.open(file)
    keys = file.with_name("keys.txt")
    keys.write_text("admin-key\n", encoding="utf-8")
    with live_server(
        make_engine(slots=1, queue_limit=0), make_settings(admin_key_file=keys), records=records
    ) as server:
        yield server
    records.close()


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def request_lines(log: io.StringIO, count: int) -> list[dict[str, Any]]:
    """The lines of `count` requests; the last one is written after its answer was sent."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [line for line in lines(log) if line["event"] == "request"]
        if len(found) >= count or time.monotonic() > deadline:
            assert len(found) == count
            return found
        time.sleep(0.005)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_is_a_line(live: LiveServer, log: io.StringIO, streamed: bool):
    answer = live.http.post(PATH, json=chat(stream=streamed, n=2), headers={"x-request-id": "my-id.7"})
    assert answer.headers["x-request-id"] == "my-id.7"
    [line] = request_lines(log, 1)
    assert line["request_id"] == "my-id.7"
    assert (line["method"], line["route"], line["status"]) == ("POST", PATH, 200)
    assert (line["model"], line["stream"], line["replies"]) == ("sailor", streamed, 2)
    assert line["prompt_tokens"] > 0
    assert 0 < line["first_token_seconds"] <= line["seconds"]
    assert line["finish"] in {"stop", "length"}
    assert line["soft_prompt"] in {0, 1, 2}
    assert line["time"].endswith("+00:00")


def test_ids_are_made_where_the_client_has_none_or_one_that_could_hold_text(live: LiveServer, log: io.StringIO):
    ids = [live.http.get("/health").headers["x-request-id"] for _ in range(2)]
    given = live.http.get("/health", headers={"x-request-id": f"{SECRET} {SECRET}"}).headers["x-request-id"]
    assert len({*ids, given}) == 3
    assert [line["request_id"] for line in request_lines(log, 3)] == [*ids, given]
    assert SECRET not in log.getvalue()


def test_no_word_of_a_user_is_ever_logged(recording: LiveServer, log: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    said = [{"role": "system", "content": f"I am {SECRET}."}, {"role": "user", "content": f"hello {SECRET}"}]
    http = recording.http
    for body in (
        chat(messages=said, user=SECRET, stop=SECRET),
        chat(messages=said, stream=True),
        chat(messages=said, model=SECRET),
        chat(messages=said, persona=SECRET),
        chat(messages=[*said, {"role": SECRET, "content": SECRET}]),
        chat(messages=[{"role": "user", "content": SECRET * 2000}]),
        chat(messages=said, **{SECRET: SECRET}),
    ):
        http.post(PATH, json=body)
    http.post("/v1/completions", json={"model": "sailor", "prompt": SECRET, "max_tokens": 3})
    http.post("/v1/spt/select", json={"model": "sailor", "messages": said})
    http.post("/v1/feedback", json={"completion_id": SECRET, "rating": 1, "comment": SECRET})
    http.get(f"/v1/models/{SECRET}?q={SECRET}")
    http.get(f"/{SECRET}")
    http.delete(f"/admin/users/{SECRET}", headers={"authorization": "Bearer admin-key"})
    assert http.request("SECRETMETHOD", f"/{SECRET}").status_code == 400  # by uvicorn: it is no request to be logged
    http.get("/v1/models", headers={"host": SECRET, "user-agent": SECRET, "authorization": f"Bearer {SECRET}"})

    def broken(_: Limits, body: Any) -> None:
        raise RuntimeError(f"what was said: {body}")

    monkeypatch.setattr(Limits, "check_chat", broken)
    assert http.post(PATH, json=chat(messages=said)).status_code == 500
    requests = request_lines(log, 15)
    assert SECRET not in log.getvalue().lower()
    [failure] = [line for line in lines(log) if line["event"] == "request.failed"]
    assert failure["exception"]["type"] == "builtins.RuntimeError"
    assert any("test_server_log.py" in frame for frame in failure["exception"]["frames"])
    assert failure["request_id"] == requests[-1]["request_id"]


def test_an_expected_error_that_is_told_by_the_log_is_in_it(
    recording: LiveServer, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> bool:
        raise StorageError(SECRET)

    def stopped(*_: object) -> None:
        raise TrainingError(SECRET)

    monkeypatch.setattr(Records, "feedback", full)
    monkeypatch.setattr(Limits, "check_chat", stopped)
    rating = {"completion_id": "chatcmpl-1", "rating": 1}
    answers = [recording.http.post("/v1/feedback", json=rating), recording.http.post(PATH, json=chat())]
    assert [answer.status_code for answer in answers] == [507, 500]
    failures = [line for line in lines(log) if line["event"] == "request.failed"]
    assert [line["request_id"] for line in failures] == [answer.headers["x-request-id"] for answer in answers]
    assert [line["exception"]["type"] for line in failures] == [
        "sptune.errors.StorageError",
        "sptune.errors.TrainingError",
    ]
    assert SECRET not in log.getvalue()


def test_an_exception_is_logged_without_its_message_and_with_its_cause():
    formatter = JsonFormatter()
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as inner:
            raise RuntimeError(SECRET) from inner
    except RuntimeError as error:
        record = logging.LogRecord(
            "uvicorn.error", logging.ERROR, "x", 1, "Exception in ASGI", (), (type(error), error, None)
        )
    line = formatter.format(record)
    assert SECRET not in line
    assert json.loads(line)["exception"]["cause"]["type"] == "builtins.ValueError"


def test_errors_are_told_by_code(live: LiveServer, log: io.StringIO):
    live.http.post(PATH, json=chat(model="nobody"))
    live.http.get("/nothing")
    first, second = request_lines(log, 2)
    assert (first["status"], first["error"], first["route"]) == (404, "model_not_found", PATH)
    assert (second["status"], second["error"], second["route"]) == (404, "not_found", "none")


def figures(live: LiveServer) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(live.http.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_metrics_count_what_happened(recording: LiveServer):
    def figure(name: str, **labels: str) -> float:
        return figures(recording).get((name, frozenset(labels.items())), 0.0)

    def all_of() -> dict[str, float]:
        sailor = {"model": "sailor"}
        return {
            "answers": figure("sptune_requests_total", route=PATH, method="POST", status="200"),
            "errors": figure("sptune_errors_total", code="model_not_found"),
            "first": figure("sptune_time_to_first_token_seconds_count", **sailor),
            "between": figure("sptune_inter_token_seconds_count", **sailor),
            "written": figure("sptune_tokens_total", **sailor, kind="completion"),
            "read": figure("sptune_tokens_total", **sailor, kind="prompt"),
            "chosen": figure("sptune_chosen_prompt_total", **sailor, prompt="2"),
            "margins": figure("sptune_selection_margin_count", **sailor),
            "scored": figure("sptune_retriever_seconds_count", **sailor),
            "time": figure("sptune_request_seconds_count", route=PATH),
        }

    before = all_of()
    answer = recording.http.post(PATH, json=chat(prompt=2, max_tokens=12)).json()
    recording.http.post(PATH, json=chat(model="nobody"))
    after = all_of()
    gained = {name: after[name] - before[name] for name in after}
    tokens = answer["usage"]["completion_tokens"]
    assert gained.pop("written") == tokens
    assert gained.pop("read") == answer["usage"]["prompt_tokens"]
    assert 0 < gained.pop("between") < tokens
    assert gained.pop("time") == 2
    assert set(gained.values()) == {1}
    assert figure("sptune_slots") == 1
    assert figure("sptune_running") == figure("sptune_queue_waiting") == 0


def test_labels_are_bounded_whatever_clients_send(live: LiveServer):
    def series(start: int) -> int:
        for number in range(start, start + 10):
            live.http.post(PATH, json=chat(model=f"model-{number}"))
            live.http.get(f"/path-{number}")
            live.http.get(f"/v1/models/model-{number}")
            live.http.request(f"METHOD{number}", "/health")
        return len(figures(live))

    series(0)
    assert series(10) == series(20)
