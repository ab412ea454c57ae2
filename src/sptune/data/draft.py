"""From what a reader found to the dialogues of a file: the checks that need all of it, and the persona asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from sptune.data.dialogue import Dialogue
from sptune.data.problems import Report

Persona = Literal["self", "other", "both", "none"]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a reader found for one dialogue.

    Attributes:
        dialogue: as far as it could be read, with every persona the file shows; an empty id means none was given.
        line: where it begins.
        faulty: it has an error that has been reported.
        turn_before_persona: line of its first turn, where no persona line came before it and the format has such lines.
    """

    dialogue: Dialogue
    line: int
    faulty: bool = False
    turn_before_persona: int | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The dialogues of a file that have no error, and how many were left out because they have one."""

    dialogues: tuple[Dialogue, ...]
    skipped: int


def settle(drafts: Iterable[Draft], persona: Persona, report: Report) -> Settled:
    """Check `drafts` as a whole, give each dialogue its id, and keep the persona asked for.

    Reports `turn-before-persona`, `no-persona`, `duplicate-dialogue` and `duplicate-id`.
    """
    drafts = _named(list(drafts), report)
    kept = _with_persona(drafts, report) if persona != "none" else [draft for draft in drafts if not draft.faulty]
    _report_duplicates(kept, report)
    dialogues = tuple(choose_persona(draft.dialogue, persona) for draft in kept)
    if persona != "none" and dialogues and not any(talk.persona or talk.partner_persona for talk in dialogues):
        report.add(1, "no-persona", f"no dialogue of the file shows the persona asked for (persona={persona})")
    return Settled(dialogues, skipped=len(drafts) - len(kept))


def choose_persona(dialogue: Dialogue, persona: Persona) -> Dialogue:
    """`dialogue` with the persona of its responses' speaker (self), of the user (other), of both, or of neither (none).

    >>> talk = Dialogue("a", ("i sail .",), (), ("i ski .",))
    >>> [(d.persona, d.partner_persona) for d in (choose_persona(talk, "self"), choose_persona(talk, "other"))]
    [(('i sail .',), ()), ((), ('i ski .',))]
    """
    return replace(
        dialogue,
        persona=dialogue.persona if persona in ("self", "both") else (),
        partner_persona=dialogue.partner_persona if persona in ("other", "both") else (),
    )


def _with_persona(drafts: list[Draft], report: Report) -> list[Draft]:
    """The drafts without error; one that lacks a persona is a fault only where the file has personas at all."""
    has_personas = any(draft.dialogue.persona or draft.dialogue.partner_persona for draft in drafts)
    kept = []
    for draft in drafts:
        faulty = draft.faulty
        if has_personas and draft.turn_before_persona is not None:
            faulty = report.add(draft.turn_before_persona, "turn-before-persona", "a turn before any persona line")
        elif has_personas and not (faulty or draft.dialogue.persona or draft.dialogue.partner_persona):
            report.add(draft.line, "no-persona", "a dialogue without persona, in a file that has personas")
        if not faulty:
            kept.append(draft)
    return kept


def _report_duplicates(drafts: list[Draft], report: Report) -> None:
    """Report each dialogue that says the same as an earlier one, whatever its id and its candidates."""
    first: dict[object, Draft] = {}
    for draft in drafts:
        talk = draft.dialogue
        said = tuple((turn.user, turn.response, turn.learn) for turn in talk.turns)
        earlier = first.setdefault((talk.persona, talk.partner_persona, said), draft)
        if earlier is not draft:
            report.add(draft.line, "duplicate-dialogue", f"the same dialogue as the one at line {earlier.line}")


def _named(drafts: list[Draft], report: Report) -> list[Draft]:
    """The drafts, each with a unique id: its own, else its place in the file counted from 1."""
    names = _Names({draft.dialogue.id for draft in drafts})
    first: dict[str, int] = {}
    named = []
    for place, draft in enumerate(drafts, start=1):
        name = given = draft.dialogue.id
        if not given:
            name = names.unused(str(place))
        elif given in first:
            name = names.unused(given)
            report.add(
                draft.line, "duplicate-id", f"the id {given!r} is taken by line {first[given]}; read as {name!r}"
            )
        first.setdefault(name, draft.line)
        named.append(replace(draft, dialogue=replace(draft.dialogue, id=name)))
    return named


class _Names:
    """Hands out names that are not taken yet."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._last: dict[str, int] = {}

    def unused(self, name: str) -> str:
        """`name`, else `name-2`, `name-3`, ...: the first that is not taken; it is taken from now on."""
        number = self._last.get(name, 1)
        candidate = name
        while candidate in self._taken:
            number += 1
            candidate = f"{name}-{number}"
        self._last[name] = number
        self._taken.add(candidate)
        return candidate
