"""Who may come in: keys, their rotation, host names, the admin's own key, and what is open without one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, chat, live_server

from sptune.errors import UsageError
from sptune.server.app import make_app
from sptune.server.keys import KeyFile
from sptune.server.page import page_files
from sptune.server.settings import ServerSettings

OPEN = {"/health"} | set(page_files())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text("# the first one\nfirst-key\n\n  second-key\r\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def guarded(make_engine: Callable, make_settings: Callable, keys: Path, tmp_path_factory) -> Iterator[LiveServer]:
    """A server that asks for keys, with admin routes."""
    admin = tmp_path_factory.mktemp("admin") / "admin.txt"
    admin.write_text("admin-key\n", encoding="utf-8")
    settings = make_settings(api_key_file=keys, admin_key_file=admin, host="0.0.0.0")
    with live_server(make_engine(), settings) as server:
        server.http.base_url = server.url.replace("0.0.0.0", "127.0.0.1")
        yield server


def routes(live: LiveServer) -> list[tuple[str, str]]:
    """Every method and path that is answered: those of the schema, the page's files and the documents."""
    app: Any = live.server.config.app
    documented = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    return documented + [("GET", path) for path in (*page_files(), "/docs", "/openapi.json")]


def test_every_route_but_the_open_ones_needs_the_key(guarded: LiveServer):
    seen = set()
    for method, path in routes(guarded):
        answer = guarded.http.request(method, path.replace("{", "").replace("}", ""))
        if path in OPEN:
            assert answer.status_code == 200, path
            continue
        seen.add(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert {"/ready", "/metrics", "/version", "/docs", "/openapi.json", "/v1/models"} <= seen
    assert {"/v1/chat/completions", "/v1/spt/select", "/admin/adapters"} <= seen


def test_what_is_not_there_is_not_told_to_strangers(guarded: LiveServer):
    for path in (
        "/nothing",
        "/v1/chat/completions/",
        "/page",
        "/health/",
        "/HEALTH",
        "/health%2f..%2fv1%2fmodels",
    ):
        assert guarded.http.get(path).status_code == 401, path


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_every_key_of_the_file_opens(guarded: LiveServer, key: str):
    assert guarded.http.get("/v1/models", headers=bearer(key)).status_code == 200
    assert guarded.http.get("/v1/models", headers={"authorization": f"bearer   {key}"}).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer first-ke",
        "Bearer first-key2",
        "Bearer FIRST-KEY",
        "first-key",
        "Basic first-key",
        "Bearer # the first one",
        "Bearer admin-key",
        b"Bearer first-key\xff",
    ],
)
def test_anything_else_does_not(guarded: LiveServer, value: str | bytes):
    answer = guarded.http.get("/v1/models", headers={"authorization": value})
    assert answer.status_code == 401
    assert "key" in answer.json()["error"]["message"]


def test_a_refused_request_is_not_read(guarded: LiveServer):
    answer = guarded.http.post("/v1/chat/completions", content=b"x" * 5_000_000)
    assert answer.status_code == 401


def test_the_admins_key_is_its_own(guarded: LiveServer):
    assert guarded.http.get("/admin/adapters", headers=bearer("first-key")).status_code == 401
    assert guarded.http.get("/admin/adapters", headers=bearer("admin-key")).status_code == 200
    assert guarded.http.get("/v1/models", headers=bearer("admin-key")).status_code == 401


def test_the_admin_routes_are_off_without_a_key(live: LiveServer):
    for method, path in (("GET", "/admin/adapters"), ("POST", "/admin/adapters"), ("DELETE", "/admin/users/x")):
        answer = live.http.request(method, path, headers=bearer("admin-key"))
        assert answer.status_code == 404
        assert "off" in answer.json()["error"]["message"]


def test_keys_change_while_the_server_runs(guarded: LiveServer, keys: Path):
    def status(key: str) -> int:
        return guarded.http.get("/v1/models", headers=bearer(key)).status_code

    before = keys.read_text(encoding="utf-8")
    try:
        keys.write_text("second-key\nthird-key\n", encoding="utf-8")
        assert [status(f"{n}-key") for n in ("first", "second", "third")] == [401, 200, 200]
        for gone in (lambda: keys.write_text("# nobody\n", encoding="utf-8"), keys.unlink):
            gone()
            assert [status(f"{n}-key") for n in ("first", "second", "third")] == [401, 401, 401]
            assert guarded.http.get("/health").status_code == 200
        fresh = keys.with_name("fresh.txt")
        fresh.write_text("fourth-key\n", encoding="utf-8")
        os.replace(fresh, keys)
        assert [status(f"{n}-key") for n in ("second", "fourth")] == [401, 200]
    finally:
        keys.write_text(before, encoding="utf-8")


def test_all_keys_are_compared_whichever_fits(keys: Path, monkeypatch: pytest.MonkeyPatch):
    """The time that a comparison takes tells nothing: digests of one length, and no early end."""
    file = KeyFile(keys, option="api_key_file")
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("sptune.server.keys.hmac.compare_digest", compare)
    for key in ("first-key", "second-key", "", "x" * 10_000):
        compared.clear()
        file.accepts(key)
        assert len(compared) == 2
        assert {len(part) for pair in compared for part in pair} == {32}


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_a_server_does_not_start_with_a_file_that_holds_no_key(text: str, tmp_path: Path, make_engine, make_settings):
    file = tmp_path / "keys.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"^api_key_file: .* holds no key"):
        make_app(make_engine(), make_settings(api_key_file=file))
    with pytest.raises(UsageError, match=r"^admin_key_file: .* cannot be read"):
        make_app(make_engine(), make_settings(admin_key_file=tmp_path / "none.txt"))


def test_routes_can_be_opened_one_by_one(make_engine: Callable, make_settings: Callable, keys: Path):
    settings = make_settings(
        api_key_file=keys, public_routes=["/ready", "/metrics", "/docs", "/openapi.json"], page=False
    )
    with live_server(make_engine(), settings) as server:
        paths = ("/health", "/ready", "/metrics", "/docs", "/openapi.json", "/version", "/", "/docs/")
        statuses = [server.http.get(path).status_code for path in paths]
    assert statuses == [200, 200, 200, 200, 200, 401, 401, 401]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.nip.io"]
)
def test_without_a_key_another_sites_name_for_this_machine_is_refused(live: LiveServer, host: str):
    answer = live.http.post("/v1/chat/completions", json=chat(), headers={"host": host})
    assert answer.status_code in {400, 403}
    assert "answer" in answer.text or "host" in answer.text.lower()


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8000", "LOCALHOST", "[::1]:8000"])
def test_this_machines_own_names_are_answered(live: LiveServer, host: str):
    assert live.http.get("/v1/models", headers={"host": host}).status_code == 200


def test_another_address_of_this_machine_alone_answers_to_its_own_name(make_engine: Callable, make_settings: Callable):
    with live_server(make_engine(), make_settings(host="127.0.0.2")) as server:
        assert server.http.get("/v1/models").status_code == 200
        assert server.http.get("/v1/models", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_public_address_without_a_key_is_refused(host: str, keys: Path, make_settings: Callable[..., ServerSettings]):
    with pytest.raises(ValueError, match="no key is set"):
        make_settings(host=host)
    make_settings(host=host, insecure=True)
    make_settings(host=host, api_key_file=keys)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_a_local_address_needs_no_key(host: str, make_settings: Callable[..., ServerSettings]):
    assert make_settings(host=host).is_loopback
