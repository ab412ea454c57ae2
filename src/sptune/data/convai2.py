"""ParlAI's text format for ConvAI2: numbered lines of persona sentences and tab-separated turns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.draft import Draft
from sptune.data.lines import Line, bad_character
from sptune.data.problems import Report, shown
from sptune.errors import DataError

YOURS = "your persona:"
PARTNERS = "partner's persona:"
SILENCE = "__SILENCE__"

_NUMBERED = re.compile(r"\s*([0-9]{1,9})(?: |$)(.*)", re.DOTALL)


def looks_like(head: str) -> bool:
    """Whether `head`, the beginning of a file, is in this format: its first line, or half of them, are numbered."""
    rows = [row for row in head.split("\n") if row.strip()]
    numbered = [_NUMBERED.match(row) is not None for row in rows]
    return bool(rows) and (numbered[0] or 2 * sum(numbered) >= len(rows))


def parse(lines: Iterable[Line], report: Report) -> Iterator[Draft]:
    """The dialogues of a ParlAI text file; one starts where the numbering returns to 1. Blank lines are passed over."""
    episode: _Episode | None = None
    for line in lines:
        if not line.text.strip():
            continue
        number, text = _split_number(line.text)
        if episode is None or number == 1 or episode.ended_before(number, text):
            if episode is not None:
                yield episode.draft()
            episode = _Episode(line.number, report)
        episode.add(line, number, text)
    if episode is not None:
        yield episode.draft()


def _split_number(text: str) -> tuple[int | None, str]:
    """The number in front of a line and what follows it; None where there is no number."""
    found = _NUMBERED.match(text)
    return (int(found[1]), found[2]) if found else (None, text)


def _clean(text: str) -> str:
    """A field as it was meant: ParlAI writes a newline as backslash n, and a silent speaker as `__SILENCE__`."""
    text = text.replace("\\n", "\n").strip()
    return "" if text == SILENCE else text


@dataclass
class _Episode:
    """A dialogue while its lines are read."""

    line: int
    report: Report
    persona: list[str] = field(default_factory=list)
    partner_persona: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    faulty: bool = False
    turn_seen: int | None = None  # line of the first turn, good or bad
    turn_before_persona: int | None = None
    next_numbers: tuple[int, ...] = (1,)  # smallest first

    def fault(self, line: int, code: str, message: str) -> None:
        """Report a problem of this dialogue."""
        self.faulty |= self.report.add(line, code, message)

    def ended_before(self, number: int | None, text: str) -> bool:
        """Whether a line belongs to another dialogue whose first line is lost: a persona again, with a lower number."""
        lower = number is not None and number < self.next_numbers[0]
        return lower and self.turn_seen is not None and text.startswith((YOURS, PARTNERS))

    def add(self, line: Line, number: int | None, text: str) -> None:
        """Read one line; `text` is what follows its `number`."""
        self._count(line, number)
        kind = next((mark for mark in (YOURS, PARTNERS) if text.startswith(mark)), None)
        if kind is not None:
            self._add_persona(line, kind, text.removeprefix(kind))
        elif number is not None and not line.faulty:  # such a line may have been either kind
            self._note_turn(line.number)
            self._add_turn(line.number, text)

    def _count(self, line: Line, number: int | None) -> None:
        """Check the numbering; after a fault it may go on from the number found or from the one expected."""
        expected = self.next_numbers[0]
        if line.faulty:
            self.faulty = True
        elif number is None:
            self.fault(line.number, "broken-numbering", f"no number in front of {shown(line.text)}")
        elif number not in self.next_numbers:
            self.fault(line.number, "broken-numbering", f"line number {number} where {expected} was expected")
        if number is None:
            self.next_numbers = (expected, expected + 1)
        elif number in self.next_numbers:
            self.next_numbers = (number + 1,)
        else:
            self.next_numbers = tuple(sorted((number + 1, expected + 1)))

    def _note_turn(self, line: int) -> None:
        if self.turn_seen is None:
            self.turn_seen = line
            if not (self.persona or self.partner_persona):
                self.turn_before_persona = line

    def _add_persona(self, line: Line, kind: str, text: str) -> None:
        sentence = _clean(text)
        if not line.faulty:
            if self.turn_seen is not None and self.turn_before_persona is None:
                self.fault(line.number, "late-persona", f"persona {shown(sentence)} after the first turn")
            if "\t" in text:
                self.fault(line.number, "extra-tab", f"a tab in the persona sentence {shown(sentence)}")
            if not sentence:
                self.fault(line.number, "blank-persona", f"nothing after {kind!r}")
        if sentence:
            (self.persona if kind == YOURS else self.partner_persona).append(sentence)

    def _add_turn(self, line: int, text: str) -> None:
        fields = text.split("\t")
        if len(fields) == 1:
            self.fault(line, "missing-tab", f"no tab in {shown(text)}")
            return
        if len(fields) > 4:
            self.fault(line, "extra-tab", f"{len(fields)} tab-separated fields in {shown(text)}, at most 4 are known")
            return
        user, response = _clean(fields[0]), self._response(line, fields[1])
        offered = fields[3].split("|") if len(fields) == 4 else []
        candidates = tuple(filter(None, map(_clean, offered)))
        if not user and self.turns:
            self.fault(line, "empty-user", "the user says nothing after the first turn")
        if response and candidates and response not in candidates:
            self.fault(line, "gold-missing", f"{len(candidates)} candidates without the response {shown(response)}")
        self.turns.append(Turn(user, response, candidates, line))

    def _response(self, line: int, text: str) -> str:
        labels = [label for label in map(_clean, text.split("|")) if label]
        if not labels:
            self.fault(line, "empty-response", "no response after the tab")
            return ""
        if "|" in text:
            self.fault(line, "several-labels", f"'|' in {shown(text)}: the response is {shown(labels[0])}")
        if "\n" in labels[0]:
            self.fault(line, "newline-in-response", f"a newline in the response {shown(labels[0])}")
        return labels[0]

    def draft(self) -> Draft:
        """What was read, at the end of the dialogue."""
        if self.turn_seen is None and not self.faulty:
            self.fault(self.line, "no-turns", "a dialogue without a turn")
        talk = Dialogue("", tuple(self.persona), tuple(self.turns), tuple(self.partner_persona))
        return Draft(talk, self.line, self.faulty, self.turn_before_persona)


def render(dialogues: Sequence[Dialogue]) -> Iterator[str]:
    """The lines of a ParlAI text file. Ids are lost: the format has none.

    Raises:
        DataError: a text that the format would change or break, or dialogues with and without persona in one file.
    """
    has_personas = any(talk.persona or talk.partner_persona for talk in dialogues)
    for talk in dialogues:
        if has_personas and not (talk.persona or talk.partner_persona):
            raise DataError(f"dialogue {talk.id!r} has no persona and others have one: {_ADVICE}")
        rows = [f"{YOURS} {_field(sentence, talk)}" for sentence in talk.persona]
        rows += [f"{PARTNERS} {_field(sentence, talk)}" for sentence in talk.partner_persona]
        rows += [_row(turn, talk) for turn in talk.turns]
        yield from (f"{number} {row}" for number, row in enumerate(rows, start=1))


_ADVICE = "the ParlAI text format cannot hold that; write messages or sharegpt instead"


def _row(turn: Turn, talk: Dialogue) -> str:
    if turn.response is None:
        raise DataError(f"dialogue {talk.id!r} has a turn without response: {_ADVICE}")
    if not turn.learn:
        raise DataError(f"dialogue {talk.id!r} has a response that is only history (weight 0): {_ADVICE}")
    user = _field(turn.user, talk) if turn.user else SILENCE
    if user.startswith((YOURS, PARTNERS)):
        raise DataError(f"dialogue {talk.id!r}: the user's text {shown(user)} reads like a persona line: {_ADVICE}")
    fields = [user, _field(turn.response, talk, bar=False)]
    if turn.candidates:
        fields += ["", "|".join(_field(candidate, talk, bar=False) for candidate in turn.candidates)]
    return "\t".join(fields)


def _field(text: str, talk: Dialogue, *, bar: bool = True) -> str:
    """`text` with its newlines escaped; refused unless reading it back gives the same text (`bar`: '|' is harmless)."""
    escaped = text.replace("\n", "\\n")
    if not text or _clean(escaped) != text or "\t" in text or bad_character(text) or ("|" in text and not bar):
        raise DataError(
            f"dialogue {talk.id!r}: {shown(text)} is empty, or holds a tab, a '|', a control character, a backslash n, "
            f"{SILENCE}, or space around it: {_ADVICE}"
        )
    return escaped
