"""The admin routes: adapters come and go while the server runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, chat, live_server

from sptune.data.dialogue import Dialogue, Turn
from sptune.model.selection import Selection
from sptune.server.records.record import TurnRecord
from sptune.server.records.store import Records

KEY = {"Authorization": "Bearer admin-key"}


@pytest.fixture(scope="module")
def root(adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that adapters may be loaded from, and one beside it from which they may not."""
    root = tmp_path_factory.mktemp("served")
    for folder in (root / "inside", root / "also", root.with_name("outside")):
        shutil.copytree(adapters["baker"], folder)
    (root / "link").symlink_to(root.with_name("outside"))
    (root / "run").mkdir()
    (root / "run" / "adapter").symlink_to(root.with_name("outside"))
    shutil.copytree(adapters["baker"], root / "bad")
    (root / "bad" / "adapter_model.safetensors").write_bytes(b"no tensors")
    return root


@pytest.fixture(scope="module")
def server(make_engine: Callable, make_settings: Callable, root: Path, records: Records) -> Iterator[LiveServer]:
    keys = root.with_name("admin-keys.txt")
    keys.write_text("admin-key\n", encoding="utf-8")
    settings = make_settings(admin_key_file=keys, admin_root=root)
    with live_server(make_engine(), settings, records=records) as server:
        server.http.headers.update(KEY)
        yield server


def add(server: LiveServer, name: str, path: str) -> Any:
    return server.http.post("/admin/adapters", json={"name": name, "path": path})


def names(server: LiveServer) -> list[str]:
    return [model["id"] for model in server.http.get("/admin/adapters").json()["data"]]


def test_an_adapter_comes_and_goes(server: LiveServer):
    added = add(server, "fresh", "inside")
    assert added.status_code == 200, added.text
    assert added.json()["spt"]["num_prompts"] == 5
    assert names(server) == ["sailor", "baker", "fresh"]
    reply = server.http.post("/v1/chat/completions", json=chat(model="fresh")).json()
    assert reply["spt"] == server.http.post("/v1/chat/completions", json=chat(model="baker")).json()["spt"]
    assert 'model="fresh"' in server.http.get("/metrics").text
    removed = server.http.delete("/admin/adapters/fresh")
    assert removed.json() == {"id": "fresh", "object": "model", "deleted": True}
    assert names(server) == ["sailor", "baker"]
    assert server.http.post("/v1/chat/completions", json=chat(model="fresh")).status_code == 404
    assert 'model="fresh"' not in server.http.get("/metrics").text
    assert server.http.delete("/admin/adapters/fresh").status_code == 404
    assert add(server, "fresh", "inside").status_code == 200, "the name is free again"
    server.http.delete("/admin/adapters/fresh")


@pytest.mark.parametrize("name", ["baker", "tiny"])
def test_a_name_that_is_taken(server: LiveServer, name: str):
    answer = add(server, name, "inside")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "name_taken")


@pytest.mark.parametrize("path", ["../outside", "link", "run", "/etc", "inside/../../outside", "in\0side"])
def test_nothing_outside_the_root_is_loaded(server: LiveServer, path: str):
    answer = add(server, "other", path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "path_refused")


@pytest.mark.parametrize("path", ["bad", "missing", "."])
def test_a_bad_adapter_changes_nothing(server: LiveServer, path: str):
    answer = add(server, "other", path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "adapter_refused"), answer.text
    assert names(server) == ["sailor", "baker"]
    assert server.http.post("/v1/chat/completions", json=chat()).status_code == 200
    assert add(server, "other", "also").status_code == 200
    server.http.delete("/admin/adapters/other")


def test_an_adapter_that_breaks_on_disk_is_told_of_without_its_path(server: LiveServer, root: Path, adapters):
    """It left memory, and cannot be read again: its requests fail, the server does not."""
    shutil.copytree(adapters["baker"], root / "short-lived")
    assert add(server, "short-lived", "short-lived").status_code == 200
    store = server.engine.adapters
    shutil.rmtree(root / "short-lived")
    store._entries["short-lived"].adapter = None
    answer = server.http.post("/v1/chat/completions", json=chat(model="short-lived"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
    assert str(root) not in answer.text
    assert server.http.post("/v1/chat/completions", json=chat()).status_code == 200
    server.http.delete("/admin/adapters/short-lived")


@pytest.mark.parametrize(
    "body", [{}, {"name": "a b", "path": "x"}, {"name": "a"}, {"name": "a", "path": "x", "tensors": [[1.0]]}]
)
def test_what_is_no_adapter(server: LiveServer, body: dict[str, Any]):
    assert server.http.post("/admin/adapters", json=body).status_code == 400


def test_a_users_records_are_deleted(server: LiveServer, records: Records):
    before = records.count()
    for user, name in (("ann", "c1"), ("ann", "c2"), ("bob", "c3"), ("org/cy", "c4"), ("", "c5")):
        talk = Dialogue("x", (), (Turn("hello"),))
        chosen = Selection(0, (0.1, 0.0, 0.0), 0.1)
        assert records.conversation(TurnRecord(name, 1.0, "sailor", talk, "ahoy", "stop", user, chosen))
    assert server.http.delete("/admin/users/ann").json() == {"user": "ann", "deleted": 2}
    assert server.http.delete("/admin/users/ann").json()["deleted"] == 0
    assert server.http.delete("/admin/users/org%2Fcy").json() == {"user": "org/cy", "deleted": 1}
    assert server.http.delete("/admin/users/").json() == {"user": "", "deleted": 1}
    assert records.count() == before + 1
