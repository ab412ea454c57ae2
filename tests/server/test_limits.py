"""Each limit has an error of its own, and what is at the limit passes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_server import LiveServer, chat, live_server

PATH = "/v1/chat/completions"
LIMITS = {
    "max_body_bytes": 20_000,
    "max_messages": 5,
    "max_message_chars": 300,
    "max_persona_sentences": 3,
    "max_n": 2,
    "max_tokens": 9,
    "max_stops": 2,
    "max_stop_chars": 4,
    "max_logprobs": 3,
    "body_seconds": 0.5,
    "default_max_tokens": 40,
}


@pytest.fixture(scope="module")
def strict(make_engine: Callable, make_settings: Callable) -> Iterator[LiveServer]:
    with live_server(make_engine(), make_settings(**LIMITS)) as server:
        yield server


def talk(count: int, text: str = "hi") -> list[dict[str, str]]:
    return [{"role": "user" if n % 2 == 0 else "assistant", "content": text} for n in range(count)]


@pytest.mark.parametrize(
    ("fits", "too_much", "code"),
    [
        ({"messages": talk(5)}, {"messages": talk(7)}, "too_many_messages"),
        ({"messages": talk(1, "a" * 300)}, {"messages": talk(1, "a" * 301)}, "text_too_long"),
        ({"persona": ["a"] * 3}, {"persona": ["a"] * 4}, "persona_too_long"),
        ({"persona": ["a" * 300]}, {"persona": ["a" * 301]}, "text_too_long"),
        ({"n": 2}, {"n": 3}, "too_many_replies"),
        ({"max_tokens": 9}, {"max_tokens": 10}, "limit_exceeded"),
        (
            {"max_completion_tokens": 9, "max_tokens": None},
            {"max_completion_tokens": 10, "max_tokens": None},
            "limit_exceeded",
        ),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b", "c"]}, "too_many_stops"),
        ({"stop": "abcd"}, {"stop": "abcde"}, "limit_exceeded"),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 4}, "limit_exceeded"),
        ({"temperature": 2}, {"temperature": 2.01}, "invalid_value"),
        ({"top_p": 0.01}, {"top_p": 0}, "invalid_value"),
        ({"user": "u" * 256}, {"user": "u" * 257}, "invalid_value"),
    ],
)
def test_a_limit(strict: LiveServer, fits: dict[str, Any], too_much: dict[str, Any], code: str):
    assert strict.http.post(PATH, json=chat(**fits)).status_code == 200
    answer = strict.http.post(PATH, json=chat(**too_much))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["param"] in too_much
    assert error["param"] in error["message"]


def test_a_reply_is_no_longer_than_the_server_allows_where_the_request_does_not_say(strict: LiveServer):
    body = chat()
    del body["max_tokens"]
    assert strict.http.post(PATH, json=body).json()["usage"]["completion_tokens"] <= 9


def test_a_body_that_is_too_large(strict: LiveServer):
    for content in (b"x" * 20_001, iter([b"x" * 10_000] * 3)):  # the second does not say how long it is
        answer = strict.http.post(PATH, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert "20,000" in answer.json()["error"]["message"]
    assert strict.http.post(PATH, json=chat()).status_code == 200


def test_a_body_that_does_not_come(strict: LiveServer):
    host, port = strict.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nx".encode())
        began = time.monotonic()
        answer = slow.recv(65_536)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert time.monotonic() - began >= 0.4


def test_a_client_that_goes_away_before_its_body_came_hurts_nobody(strict: LiveServer):
    host, port = strict.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as gone:
        gone.sendall(f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nx".encode())
    assert strict.http.post(PATH, json=chat()).status_code == 200
