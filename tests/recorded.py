"""Invented replies, as a server would record them."""

from __future__ import annotations

import time
from dataclasses import replace

from sptune.data.dialogue import Dialogue, Turn
from sptune.server.records.record import TurnRecord

BEES = ("I keep bees.", "I fear geese.")


def context(*said: str, persona: tuple[str, ...] = BEES) -> Dialogue:
    """A context of texts by turns: user, response, user, ..."""
    turns = [Turn(user, response) for user, response in zip(said[::2], said[1::2], strict=False)]
    return Dialogue("request", persona, (*turns, Turn(said[-1])))


def recorded(completion_id: str, *said: str, reply: str = "Mind the hive.", **changes: object) -> TurnRecord:
    """A reply of adapter `bees` to user `ann`, just now."""
    if "selection" not in changes:
        from sptune.model.selection import Selection  # loads torch, which a process that only writes need not wait for

        changes["selection"] = Selection(1, (0.25, 0.75), 0.5)
    record = TurnRecord(
        completion_id,
        time.time(),
        "bees",
        context(*(said or ("Hi!",))),
        reply,
        "stop",
        user="ann",
        prompt_tokens=12,
        completion_tokens=5,
    )
    return replace(record, **changes)
