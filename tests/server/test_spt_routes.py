"""Models, the choice of a prompt, personas, feedback, the state of the server and its documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from live_server import LiveServer, chat, events, live_server

from sptune import __version__
from sptune.server.records.store import Records


@pytest.fixture(scope="module")
def recording(make_engine: Callable, make_settings: Callable, records: Records) -> Iterator[LiveServer]:
    settings = make_settings(record="chats.db", retention_days=30)  # the file is that of `records`
    with live_server(make_engine(), settings, records=records) as server:
        yield server


def test_the_models_are_the_base_and_the_adapters(live: LiveServer):
    answer = live.http.get("/v1/models").json()
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == ["tiny", "sailor", "baker"]
    assert all(model["object"] == "model" and model["created"] > 1_700_000_000 for model in answer["data"])
    base, sailor, _ = [model["spt"] for model in answer["data"]]
    assert (base["num_prompts"], base["max_length"]) == (0, 1024)
    assert (sailor["base"], sailor["num_prompts"], sailor["prompt_length"], sailor["template"]) == (
        "tiny",
        3,
        4,
        "paper",
    )
    for model in answer["data"]:
        assert live.http.get(f"/v1/models/{model['id']}").json() == model
    missing = live.http.get("/v1/models/nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("fields", [{}, {"prompt": 2}, {"persona": "baker"}, {"selection": "sticky"}])
def test_the_choice_is_the_one_that_the_reply_is_made_with(live: LiveServer, fields: dict):
    body = {"model": "sailor", "messages": chat()["messages"], **fields}
    chosen = live.http.post("/v1/spt/select", json=body)
    assert chosen.status_code == 200, chosen.text
    spoken = live.http.post("/v1/chat/completions", json=chat(**fields)).json()["spt"]
    assert spoken.pop("weights") is None
    assert chosen.json() == {"object": "spt.selection", "model": "sailor", **spoken}


def test_what_cannot_be_chosen(live: LiveServer):
    for model, status, param in (("tiny", 400, "model"), ("nobody", 404, "model"), ("sailor", 400, "prompt")):
        body = {"model": model, "messages": chat()["messages"], "prompt": 7}
        answer = live.http.post("/v1/spt/select", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_personas_by_name(live: LiveServer):
    known = {"sailor": ["I sail.", "I have two dogs."], "baker": ["I bake rye bread.", "I get up early."]}
    assert live.http.get("/v1/spt/personas").json() == {"personas": known}
    answer = live.http.post("/v1/chat/completions", json=chat(persona="nobody"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "persona_not_found")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_reply_is_recorded_and_can_be_rated(recording: LiveServer, records: Records, streamed: bool):
    before = records.count()
    body = chat("what do you sing ?", persona=["I sail."], user="ann", stream=streamed)
    answer = recording.http.post("/v1/chat/completions", json=body)
    name = events(answer.text)[0]["id"] if streamed else answer.json()["id"]
    assert records.count() == before + 1
    rating = {"completion_id": name, "rating": 1, "comment": "nice"}
    kept = recording.http.post("/v1/feedback", json=rating)
    assert kept.json() == {"object": "feedback", "completion_id": name, "rating": 1}
    [rated] = [one for one in records.rated() if one.dialogue.id == name]
    assert rated.dialogue.persona == ("I sail.",)
    assert rated.dialogue.turns[0].user == "what do you sing ?"
    said = answer.json()["choices"][0]["message"]["content"] if not streamed else None
    assert rated.dialogue.turns[0].response == said or streamed


def test_a_reply_that_is_broken_off_is_recorded_as_far_as_it_came(recording: LiveServer, records: Records):
    before = records.count()
    body = chat(model="tiny", max_tokens=900, stream=True, user="gone")
    with recording.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    for _ in range(500):
        if records.count() > before:
            break
        time.sleep(0.01)
    [(reply, finish)] = records._read("SELECT reply, finish FROM turn WHERE user = ?", ("gone",))
    assert finish == "cancelled"
    assert len(reply) < 3000


def test_each_of_several_replies_is_recorded(recording: LiveServer, records: Records):
    before = records.count()
    name = recording.http.post("/v1/chat/completions", json=chat(n=3, temperature=1)).json()["id"]
    assert records.count() == before + 3
    rate = {"completion_id": name, "rating": -1}
    statuses = [recording.http.post("/v1/feedback", json=rate | {"choice": k}).status_code for k in range(4)]
    assert statuses == [200, 200, 200, 404]


def test_completions_are_not_recorded(recording: LiveServer, records: Records):
    before = records.count()
    body = {"model": "sailor", "prompt": "the first loaves", "max_tokens": 3}
    assert recording.http.post("/v1/completions", json=body).status_code == 200
    assert records.count() == before


def test_an_answer_does_not_fail_because_it_cannot_be_recorded(make_engine: Callable, make_settings, tmp_path: Path):
    records = Records.open(tmp_path / "chats.db")
    records.close()
    with live_server(make_engine(), make_settings(), records=records) as server:
        assert server.http.post("/v1/chat/completions", json=chat()).status_code == 200
        assert "sptune_record_errors_total 1.0" in server.http.get("/metrics").text


def test_feedback_that_has_no_place(live: LiveServer, recording: LiveServer):
    rating = {"completion_id": "chatcmpl-nothing", "rating": 1}
    off = live.http.post("/v1/feedback", json=rating)
    assert (off.status_code, off.json()["error"]["code"]) == (400, "records_off")
    missing = recording.http.post("/v1/feedback", json=rating)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "completion_not_found")
    for wrong in ({"rating": 2}, {"rating": True}, {"rating": 0}, {"completion_id": ""}):
        assert recording.http.post("/v1/feedback", json=rating | wrong).status_code == 400


def test_the_state_of_the_server(live: LiveServer, recording: LiveServer):
    assert live.http.get("/health").json() == {"status": "ok"}
    assert live.http.get("/ready").json() == {"status": "ok"}
    version = {"version": __version__, "engine": "local", "base": "tiny"}
    assert live.http.get("/version").json() == version | {"records": False, "retention_days": None}
    assert recording.http.get("/version").json() == version | {"records": True, "retention_days": 30.0}


def test_the_documents_name_every_route_and_load_nothing_from_elsewhere(live: LiveServer):
    schema = live.http.get("/openapi.json").json()
    page = live.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in schema["paths"]:
        assert f" {path}</code>" in page.text

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag != "script"
            assert not any(value and "//" in value for _, value in attrs)

    Tags().feed(page.text)
    for field in ("messages", "persona", "sticky_margin", "completion_id"):
        assert f"<code>{field}</code>" in page.text
