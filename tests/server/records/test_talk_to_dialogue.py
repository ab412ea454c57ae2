"""From a talk with a running server to a dialogue to train on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from live_server import chat, live_server

from sptune.data.lines import clean
from sptune.server.records import store
from sptune.server.records.liked import liked_dialogues
from sptune.server.records.store import Records


def test_a_talk_whose_replies_were_liked_becomes_one_dialogue(
    make_engine: Callable, make_settings: Callable, tmp_path: Path
) -> None:
    records = Records.open(tmp_path / "chats.db")
    messages, replies = [], []
    with live_server(make_engine(), make_settings(), records=records) as server:
        for text in ("Ahoy!", "Any dogs?", "Fair winds."):
            messages.append({"role": "user", "content": text})
            body = chat(messages=messages, persona=["I sail.", "I have two dogs."], user="ann")
            answer = server.http.post("/v1/chat/completions", json=body).json()
            replies.append(answer["choices"][0]["message"]["content"])
            messages.append({"role": "assistant", "content": replies[-1]})
            rating = {"completion_id": answer["id"], "rating": 1}
            assert server.http.post("/v1/feedback", json=rating).status_code == 200
    found = liked_dialogues(records.rated(), include_cut=True)
    records.close()
    [talk] = found.dialogues
    assert talk.persona == ("I sail.", "I have two dogs.")
    assert [turn.user for turn in talk.turns] == ["Ahoy!", "Any dogs?", "Fair winds."]
    assert [turn.response for turn in talk.turns] == [clean(reply).strip() for reply in replies]
    assert (found.responses, found.left_out) == (3, {})


def test_the_server_answers_while_its_database_is_locked_and_records_again_afterwards(
    make_engine: Callable, make_settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.0)
    records = Records.open(tmp_path / "chats.db")
    with live_server(make_engine(), make_settings(), records=records) as server:

        def ask() -> tuple[int, int]:
            """How a chat is answered, and how its feedback is."""
            answer = server.http.post("/v1/chat/completions", json=chat())
            rating = {"completion_id": answer.json()["id"], "rating": 1}
            return answer.status_code, server.http.post("/v1/feedback", json=rating).status_code

        other = sqlite3.connect(records.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert ask() == (200, 507)
        assert "another process has locked it" in str(records.problem)
        assert "sptune_record_errors_total 1.0" in server.http.get("/metrics").text
        other.close()
        assert ask() == (200, 200)
    assert (records.problem, records.lost, records.count()) == (None, 1, 1)
    records.close()
