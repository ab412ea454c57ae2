"""Many users at once: nobody's persona or history reaches somebody else."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from live_server import LiveServer, events, live_server

from sptune.server.records.store import Records

PATH = "/v1/chat/completions"
USERS = 24


def ask(user: int, *, streamed: bool) -> dict[str, Any]:
    """A request that no other user makes: own persona, history, adapter, stop and prompt."""
    draw = random.Random(user)
    canary = f"canary{user:03d}"
    said = " ".join(draw.choices(["maps", "rope", "winter", "bees", "sing"], k=4))
    return {
        "model": ("sailor", "baker", "tiny")[user % 3],
        "messages": [
            {"role": "system", "content": f"I am {canary}."},
            {"role": "user", "content": f"hello {canary} , {said} ?"},
            {"role": "assistant", "content": f"{canary} {said} ."},
            {"role": "user", "content": f"and {said} , {canary} ?"},
        ],
        "temperature": (0, 1.2)[user % 2],
        "seed": user,
        "max_tokens": 4 + user % 9,
        "user": canary,
        "logprobs": True,
        "stream": streamed,
    }


def told(answer: httpx2.Response) -> dict[str, Any]:
    """What an answer says, streamed or not."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        whole = answer.json()
        choice = whole["choices"][0]
        text, logprobs, finish = choice["message"]["content"], choice["logprobs"]["content"], choice["finish_reason"]
        return {"text": text, "tokens": [t["token"] for t in logprobs], "finish": finish, "spt": whole["spt"]}
    chunks = events(answer.text)[:-1]
    parts = [chunk["choices"][0] for chunk in chunks]
    return {
        "text": "".join(part["delta"].get("content", "") for part in parts),
        "tokens": [token["token"] for part in parts if part["logprobs"] for token in part["logprobs"]["content"]],
        "finish": parts[-1]["finish_reason"],
        "spt": chunks[0].get("spt"),
    }


async def all_at_once(url: str) -> list[dict[str, Any]]:
    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        answers = [client.post(PATH, json=ask(user, streamed=user % 4 < 2)) for user in range(USERS)]
        return [told(answer) for answer in await asyncio.gather(*answers)]


def alone(live: LiveServer, user: int) -> dict[str, Any]:
    return told(live.http.post(PATH, json=ask(user, streamed=False)))


def test_a_reply_among_many_is_the_reply_alone(make_engine: Callable, make_settings: Callable, tmp_path: Path):
    records = Records.open(tmp_path / "chats.db")
    with live_server(make_engine(slots=6, queue_limit=64), make_settings(), records=records) as server:
        expected = [alone(server, user) for user in range(USERS)]
        found = asyncio.run(all_at_once(server.url))
    for user, (one, other) in enumerate(zip(expected, found, strict=True)):
        scores, own = one.pop("spt"), other.pop("spt")
        assert other == one, user
        assert (scores is None) == (own is None)
        if scores is not None:
            assert own["prompt"] == scores["prompt"]
            assert max(abs(a - b) for a, b in zip(own["scores"], scores["scores"], strict=True)) < 1e-5
    assert len({json.dumps(one) for one in expected}) > USERS // 2, "the replies would differ if they were mixed"
    check_records(records)
    records.close()


def check_records(records: Records) -> None:
    """Each record holds its own user's canary, and nobody else's."""
    rows = records._read("SELECT user, persona, turns FROM turn", ())
    assert len(rows) == 2 * USERS
    for user, persona, turns in rows:
        text = f"{persona} {turns}"
        assert user in persona
        assert text.count("canary") == text.count(user)
