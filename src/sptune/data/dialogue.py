"""A dialogue: who is speaking (persona) and what was said (turns). Frozen, so that it can be shared and hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the user says and what the persona answers.

    Attributes:
        user: the user's message; may be empty where the persona speaks first.
        response: the persona's answer, or None where it is still to be generated.
        candidates: answers to rank, the gold response among them; empty where the data has none.
        line: line of the source file that holds the response, counted from 1, for error messages.
        learn: whether the response is an example, to learn from and to measure; False: it is only history of later turns.
    """

    user: str
    response: str | None = None
    candidates: tuple[str, ...] = ()
    line: int | None = None
    learn: bool = True


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A persona and the turns of one conversation, oldest first.

    A *context* (persona, history and last user message; C_i in the paper) is a dialogue whose last turn has no response.

    Attributes:
        id: unique within its file.
        persona: sentences about the speaker of the responses.
        turns: the exchanges, oldest first.
        partner_persona: sentences about the user, where the data has them and they were asked for; they are part of the context.
    """

    id: str
    persona: tuple[str, ...]
    turns: tuple[Turn, ...]
    partner_persona: tuple[str, ...] = ()

    @property
    def given(self) -> tuple[str, ...]:
        """The persona sentences that a context holds: those about the speaker of the responses, then those about the user."""
        return (*self.persona, *self.partner_persona)

    def context(self, turn: int) -> Dialogue:
        """The context of turn number `turn` (from 0): everything up to its user message, without its response.

        >>> talk = Dialogue("a", ("i sail .",), (Turn("hi", "hello"), Turn("and ?", "i sail")))
        >>> [t.response for t in talk.context(1).turns]
        ['hello', None]
        """
        last = replace(self.turns[turn], response=None, candidates=())
        return replace(self, turns=(*self.turns[:turn], last))

    def say(self, user: str) -> Dialogue:
        """This dialogue with a further user message that waits for its response."""
        return replace(self, turns=(*self.turns, Turn(user)))

    def answer(self, response: str) -> Dialogue:
        """This dialogue with `response` as the answer to its last user message."""
        return replace(self, turns=(*self.turns[:-1], replace(self.turns[-1], response=response)))


def to_messages(dialogue: Dialogue) -> dict[str, Any]:
    """The dialogue as one JSON object in the project's `messages` form (docs/data.md)."""
    messages = []
    for turn in dialogue.turns:
        if turn.user:
            messages.append({"role": "user", "content": turn.user})
        if turn.response is not None:
            message: dict[str, Any] = {"role": "assistant", "content": turn.response}
            if turn.candidates:
                message["candidates"] = list(turn.candidates)
            if not turn.learn:
                message["weight"] = 0
            messages.append(message)
    record: dict[str, Any] = {"id": dialogue.id, "persona": list(dialogue.persona), "messages": messages}
    if dialogue.partner_persona:
        record["partner_persona"] = list(dialogue.partner_persona)
    return record


def persona_text(dialogue: Dialogue) -> str:
    """The given sentences joined by single spaces: what persona similarity is measured on (paper, contrastive loss)."""
    return " ".join(dialogue.given)


def data_hash(dialogues: Iterable[Dialogue]) -> str:
    """SHA-256, in hex, of dialogues: of all that a `messages` file says of them, in their order."""
    digest = hashlib.sha256()
    for dialogue in dialogues:
        digest.update(json.dumps(to_messages(dialogue), ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
