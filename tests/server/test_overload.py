"""Too much at once, too late, and nobody there any more: slots come free again."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx2
import pytest
from live_server import LiveServer, chat, live_server
from transformers import PreTrainedTokenizerFast

from sptune.engine.batching import BatchingEngine
from sptune.engine.prepared import selected
from sptune.engine.serving import Load
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.server.settings import ServerSettings
from tiny import tiny_llama

PATH = "/v1/chat/completions"
LENGTH = 100_000


def long(**fields: Any) -> dict[str, Any]:
    """A request that keeps its slot for minutes, unless it is given up: the tiny model knows no end."""
    return chat(model="endless", max_tokens=LENGTH, **fields)


def short(**fields: Any) -> dict[str, Any]:
    """A request to the same model that is answered at once."""
    return chat(model="endless", **fields)


def load(live: LiveServer) -> Load:
    async def ask() -> Load:
        return live.engine.load()

    return live.call(ask())


def wait_for(live: LiveServer, condition: Callable[[Load], bool]) -> None:
    for _ in range(2000):
        if condition(load(live)):
            return
        time.sleep(0.005)
    raise AssertionError(load(live))


def idle(now: Load) -> bool:
    return now.running == now.waiting == 0


@pytest.fixture(scope="module")
def make_endless(make_engine: Callable, tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[..., BatchingEngine]:
    """Makes an engine whose window is so long that a reply does not end by itself during a test."""
    backbone = Backbone(tiny_llama(len(tiny_tokenizer), window=2 * LENGTH), base="endless")

    def make(**options: Any) -> BatchingEngine:
        return make_engine(LoadedBase(backbone, tiny_tokenizer), places=4 * LENGTH, **options)

    return make


@pytest.fixture(scope="module")
def endless_settings(make_settings: Callable) -> Callable[..., ServerSettings]:
    """Makes settings of a server of that base model alone."""
    return partial(make_settings, base="endless", adapters={}, max_tokens=LENGTH)


@pytest.fixture(scope="module")
def small(make_endless: Callable, endless_settings: Callable) -> Iterator[LiveServer]:
    """A server of one slot and one place in the queue."""
    with live_server(make_endless(slots=1, queue_limit=1), endless_settings()) as server:
        yield server


class Held:
    """A request that is on its way, over a connection of its own."""

    def __init__(self, live: LiveServer, body: dict[str, Any]) -> None:
        host, port = live.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        content = json.dumps(body).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.socket.sendall(head.encode() + content)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_a_full_queue_is_429_and_says_when_to_come_back(small: LiveServer):
    with Held(small, long()), Held(small, long()):
        wait_for(small, lambda now: (now.running, now.waiting) == (1, 1))
        for body in (short(), short(stream=True), short(n=2)):
            answer = small.http.post(PATH, json=body)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            error = answer.json()["error"]
            assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")
        ready = small.http.get("/ready")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
        assert small.http.get("/health").status_code == 200
    wait_for(small, idle)
    assert small.http.post(PATH, json=short()).status_code == 200
    assert small.http.get("/ready").status_code == 200


def test_several_replies_are_taken_all_or_none(small: LiveServer):
    """The second of two finds no place: the first does not stay behind."""
    with Held(small, long()):
        wait_for(small, lambda now: now.running == 1)
        assert small.http.post(PATH, json=long(n=2)).status_code == 429
        wait_for(small, lambda now: now.waiting == 0)
    wait_for(small, idle)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_away_frees_its_slot(small: LiveServer, streamed: bool):
    with Held(small, long(stream=streamed)) as held:
        wait_for(small, lambda now: now.running == 1)
        if streamed:
            assert b"200 OK" in held.socket.recv(100)
    wait_for(small, idle)
    assert small.http.post(PATH, json=short()).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_away_while_it_waits_frees_its_place(small: LiveServer, streamed: bool):
    with Held(small, long()):
        wait_for(small, lambda now: now.running == 1)
        with Held(small, long(stream=streamed)):
            wait_for(small, lambda now: now.waiting == 1)
        wait_for(small, lambda now: now.waiting == 0)
        assert load(small).running == 1
    wait_for(small, idle)


@pytest.mark.parametrize("streamed", [False, True])
def test_no_token_in_time(make_endless: Callable, endless_settings: Callable, streamed: bool):
    settings = endless_settings(first_token_seconds=0.5)
    with live_server(make_endless(slots=1), settings) as server, Held(server, long()):
        wait_for(server, lambda now: now.running == 1)
        answer = server.http.post(PATH, json=short(stream=streamed))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "first_token_timeout")
        assert "retry-after" in answer.headers
        wait_for(server, lambda now: now.waiting == 0)


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The choice of an earlier turn's prompt waits for it."""
    go = threading.Event()

    def slow(*arguments: Any) -> Any:
        assert go.wait(20)
        return selected(*arguments)

    monkeypatch.setattr("sptune.engine.queued.selected", slow)
    yield go
    go.set()


def test_more_replies_than_there_will_ever_be_room_for(make_engine: Callable, make_settings: Callable):
    with live_server(make_engine(slots=1, queue_limit=1), make_settings()) as server:
        answer = server.http.post(PATH, json=chat(n=3, temperature=1))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_replies")
        assert server.http.post(PATH, json=chat(n=2, temperature=1)).status_code == 200


def sticky(**fields: Any) -> dict[str, Any]:
    turns = [("user", "hi"), ("assistant", "aye ."), ("user", "do you sing ?")]
    return chat(messages=[{"role": role, "content": text} for role, text in turns], selection="sticky", **fields)


def test_finding_the_prompt_of_the_turn_before_is_part_of_the_time_to_the_first_token(
    make_engine: Callable, make_settings: Callable, choosing: threading.Event
):
    with live_server(make_engine(), make_settings(first_token_seconds=0.5)) as server:
        answer = server.http.post(PATH, json=sticky())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "first_token_timeout")
        assert idle(load(server))
        choosing.set()
        assert server.http.post(PATH, json=sticky()).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_finding_the_prompt_of_the_turn_before_takes_a_place_until_the_client_goes_away(
    make_engine: Callable, make_settings: Callable, choosing: threading.Event, streamed: bool
):
    with live_server(make_engine(slots=1, queue_limit=0), make_settings()) as server:
        with Held(server, sticky(stream=streamed)):
            wait_for(server, lambda now: now.waiting == 1)
            assert server.http.post(PATH, json=sticky()).status_code == 429
        wait_for(server, idle)
        choosing.set()
        assert server.http.post(PATH, json=sticky()).status_code == 200


def test_no_end_in_time(make_endless: Callable, endless_settings: Callable):
    with live_server(make_endless(), endless_settings(total_seconds=0.5)) as server:
        whole = server.http.post(PATH, json=long())
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "total_timeout")
        streamed = server.http.post(PATH, json=long(stream=True))
        assert streamed.status_code == 200
        assert streamed.text.count("data: ") > 3
        assert json.loads(streamed.text.rstrip().rpartition("data: ")[2])["error"]["code"] == "total_timeout"
        assert "[DONE]" not in streamed.text, "a reply that was cut off does not look complete"
        wait_for(server, idle)


def test_a_stream_that_breaks_says_so_and_nothing_about_why(small: LiveServer, monkeypatch: pytest.MonkeyPatch):
    """The status is sent long before; the error is an event."""
    from sptune.server.forms.chat import ChatForm

    whole = ChatForm.chunks

    def broken(self: ChatForm, number: int, piece: Any) -> Any:
        if piece.tokens > 3:
            raise RuntimeError("the user wrote: my secret")
        return whole(self, number, piece)

    monkeypatch.setattr(ChatForm, "chunks", broken)
    answer = small.http.post(PATH, json=long(stream=True))
    assert answer.status_code == 200
    assert json.loads(answer.text.rstrip().rpartition("data: ")[2])["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    wait_for(small, idle)


def test_an_error_of_the_servers_own_is_500_and_says_nothing_about_why(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
):
    from sptune.server.limits import Limits

    def broken(*_: object) -> None:
        raise RuntimeError("the user wrote: my secret")

    monkeypatch.setattr(Limits, "check_chat", broken)
    answer = live.http.post(PATH, json=chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]


def test_ten_times_more_clients_than_slots_get_an_answer_or_429_and_all_is_well_after(make_engine, make_settings):
    async def ask(client: httpx2.AsyncClient, number: int) -> int:
        answer = await client.post(
            PATH, json=chat(f"is that hard work , {number} ?", max_tokens=20, stream=number % 2 == 0)
        )
        return answer.status_code

    async def all_at_once(url: str) -> list[int]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(40)))

    with live_server(make_engine(slots=2, queue_limit=2), make_settings()) as server:
        statuses = asyncio.run(all_at_once(server.url))
        assert set(statuses) == {200, 429}
        wait_for(server, idle)
        assert server.http.post(PATH, json=chat()).status_code == 200
