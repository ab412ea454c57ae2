"""Dialogues as JSON: `messages` of user and assistant, or ShareGPT `conversations`; one object a line, or an array."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.draft import Draft
from sptune.data.lines import Line, bad_character
from sptune.data.problems import Report, shown


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one JSON form, and its speakers' names for system, user and assistant."""

    messages: str
    role: str
    text: str
    roles: dict[str, str]


MESSAGES = Layout("messages", "role", "content", {"system": "system", "user": "user", "assistant": "assistant"})
SHAREGPT = Layout(
    "conversations",
    "from",
    "value",
    {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
)
LAYOUTS = {"messages": MESSAGES, "sharegpt": SHAREGPT}

_DECODER = json.JSONDecoder(strict=False)  # control characters are reported as such, not as broken JSON
_SEPARATORS = re.compile(r"[\s,]*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")


def layout_of(head: str) -> str | None:
    """Name of the JSON form that `head`, the beginning of a file, is in; None where it has neither key."""
    places = {name: re.search(rf'"{layout.messages}"\s*:', head) for name, layout in LAYOUTS.items()}
    found = {name: place.start() for name, place in places.items() if place}
    return min(found, key=lambda name: found[name]) if found else None


def is_document(head: str) -> bool:
    """Whether `head` begins an array, or an object laid out over several lines, rather than one object a line."""
    first = head.lstrip().split("\n", 1)[0].strip()
    return first.startswith("[") or first == "{"


def parse_lines(lines: Iterable[Line], layout: Layout, report: Report) -> Iterator[Draft]:
    """The dialogues of a JSONL file: one object a line. Blank lines are passed over."""
    for line in lines:
        if not line.text.strip():
            continue
        if line.faulty:
            yield _unreadable(line.number)
            continue
        try:
            record = _DECODER.decode(line.text)
        except (ValueError, RecursionError) as error:
            report.add(line.number, "invalid-json", _why(error, line.text))
            yield _unreadable(line.number)
            continue
        yield parse_record(record, line.number, layout, report)


def parse_document(lines: Iterable[Line], layout: Layout, report: Report) -> Iterator[Draft]:
    """The dialogues of a JSON array, or of objects laid out over several lines. Held in memory whole.

    Broken JSON ends the reading: where the next dialogue begins cannot be known.
    """
    lines = list(lines)
    text = "\n".join(line.text for line in lines)
    bad = {line.number for line in lines if line.faulty}
    array = text.lstrip().startswith("[")
    place = text.index("[") + 1 if array else 0
    number = 1 + text.count("\n", 0, place)
    while True:
        start = _SEPARATORS.match(text, place).end()  # type: ignore[union-attr]  # it matches the empty string too
        number += text.count("\n", place, start)
        if start == len(text) or (array and text[start] == "]"):
            if array and (start == len(text) or text[start + 1 :].strip()):
                end = "the array is cut off" if start == len(text) else "text after the end of the array"
                report.add(number, "invalid-json", end)
            return
        try:
            record, place = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            where = number if isinstance(error, RecursionError) else getattr(error, "lineno", number)
            report.add(where, "invalid-json", f"{_why(error, text[start:])}; nothing after this is read")
            yield _unreadable(number)
            return
        last = number + text.count("\n", start, place)
        if bad.intersection(range(number, last + 1)):
            yield _unreadable(number)
        else:
            yield parse_record(record, number, layout, report)
        number = last


def _why(error: Exception, text: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at column {error.colno}: {error.msg}: {shown(text.strip())}"
    return f"not JSON that can be read ({type(error).__name__}): {shown(text.strip())}"


def _unreadable(line: int) -> Draft:
    return Draft(Dialogue("", (), ()), line, faulty=True)


def parse_record(record: object, line: int, layout: Layout, report: Report) -> Draft:
    """The dialogue in one JSON object that begins on `line`."""
    return _Record(line, layout, report).draft(record)


@dataclass(slots=True)
class _Message:
    role: str
    text: str
    candidates: tuple[str, ...]
    place: str


@dataclass
class _Record:
    """A JSON object while it is read."""

    line: int
    layout: Layout
    report: Report
    faulty: bool = False
    _messages: list[_Message] = field(default_factory=list)

    def fault(self, code: str, message: str) -> None:
        """Report a problem of this dialogue."""
        self.faulty |= self.report.add(self.line, code, message)

    def draft(self, record: object) -> Draft:
        if not isinstance(record, dict):
            self.fault("wrong-type", f"{_kind(record)} where an object was expected")
            return _unreadable(self.line)
        persona = self._sentences(record.get("persona"), "persona")
        partner = self._sentences(record.get("partner_persona"), "partner_persona")
        name = self._id(record.get("id"))
        self._read_messages(record.get(self.layout.messages))
        persona = self._with_system(persona)
        turns = () if self.faulty else self._turns()
        return Draft(Dialogue(name, persona, turns, partner), self.line, self.faulty)

    def _id(self, value: object) -> str:
        if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
            return "" if value is None else self._text(str(value), "id")
        self.fault("wrong-type", f"id is {_kind(value)}, not a string")
        return ""

    def _text(self, value: object, place: str) -> str:
        """A string without the space around it; anything else is reported."""
        if not isinstance(value, str):
            self.fault("wrong-type", f"{place} is {_kind(value)}, not a string")
            return ""
        if fault := bad_character(value):
            self.fault(fault[0], f"{place} has {fault[1]}")
        return value.strip()

    def _sentences(self, value: object, place: str) -> tuple[str, ...]:
        """Persona sentences from a list of strings, or from one string that is split at sentence and line ends."""
        if value is None or value == "":
            return ()
        if isinstance(value, str):
            return split_sentences(self._text(value, place))
        if not isinstance(value, list):
            self.fault("wrong-type", f"{place} is {_kind(value)}, not a list of strings")
            return ()
        sentences = []
        for number, item in enumerate(value):
            sentences.append(self._text(item, f"{place}[{number}]"))
            if isinstance(item, str) and not item.strip():
                self.fault("blank-persona", f"{place}[{number}] is blank")
        return tuple(filter(None, sentences))

    def _read_messages(self, value: object) -> None:
        key = self.layout.messages
        if value is None:
            self.fault("missing-key", f"no key {key!r}")
        elif not isinstance(value, list):
            self.fault("wrong-type", f"{key} is {_kind(value)}, not a list")
        else:
            for number, item in enumerate(value):
                self._read_message(item, f"{key}[{number}]")

    def _read_message(self, item: object, place: str) -> None:
        if not isinstance(item, dict):
            self.fault("wrong-type", f"{place} is {_kind(item)}, not an object")
            return
        missing = [key for key in (self.layout.role, self.layout.text) if item.get(key) is None]
        if missing:
            self.fault("missing-key", f"{place} has no {' and no '.join(map(repr, missing))}")
            return
        name = item[self.layout.role]
        role = self.layout.roles.get(name) if isinstance(name, str) else None
        text = self._text(item[self.layout.text], f"{place}.{self.layout.text}")
        candidates = self._candidates(item.get("candidates"), f"{place}.candidates")
        if role is None:
            bad = shown(name) if isinstance(name, str) else _kind(name)
            known = ", ".join(self.layout.roles)
            self.fault("unknown-role", f"{place}.{self.layout.role} is {bad}, not one of {known}")
        elif role == "system" and any(message.role != "system" for message in self._messages):
            self.fault("late-persona", f"{place} is a system message after the first turn")
        else:
            self._messages.append(_Message(role, text, candidates, place))

    def _candidates(self, value: object, place: str) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fault("wrong-type", f"{place} is {_kind(value)}, not a list of strings")
            return ()
        return tuple(filter(None, (self._text(item, f"{place}[{number}]") for number, item in enumerate(value))))

    def _with_system(self, persona: tuple[str, ...]) -> tuple[str, ...]:
        """The persona: as given, else the sentences of the system messages."""
        system = tuple(
            s for message in self._messages if message.role == "system" for s in split_sentences(message.text)
        )
        if persona and system and system != persona:
            self.fault(
                "system-ignored", f"persona given, so this system message is not used: {shown(' '.join(system))}"
            )
        return persona or system

    def _turns(self) -> tuple[Turn, ...]:
        talk = self._alternating()
        if talk and talk[-1].role == "user" and len(talk) > 1:
            last = talk.pop()
            self.fault("trailing-user", f"{last.place} has no answer: {shown(last.text)}")
        turns: list[Turn] = []
        user = ""
        for message in talk:
            if message.role == "user":
                user = message.text
                if not user and turns:
                    self.fault("empty-user", f"{message.place} says nothing")
            else:
                turns.append(self._turn(user, message))
        if not turns:
            self.fault("no-turns", f"{self.layout.messages} holds no answer of the assistant")
        return tuple(turns)

    def _alternating(self) -> list[_Message]:
        """The messages, with those of one speaker in a row joined; their candidates no longer fit and are dropped."""
        talk: list[_Message] = []
        for message in self._messages:
            if message.role == "system":
                continue
            if talk and talk[-1].role == message.role:
                self.fault("not-alternating", f"{message.place} is the second message of {message.role!r} in a row")
                joined = f"{talk[-1].text} {message.text}".strip()
                talk[-1] = _Message(message.role, joined, (), talk[-1].place)
            else:
                talk.append(message)
        return talk

    def _turn(self, user: str, message: _Message) -> Turn:
        if not message.text:
            self.fault("empty-response", f"{message.place} says nothing")
        elif message.candidates and message.text not in message.candidates:
            count = len(message.candidates)
            self.fault(
                "gold-missing", f"{message.place}: {count} candidates without the response {shown(message.text)}"
            )
        if "\n" in message.text:
            self.fault("newline-in-response", f"a newline in {message.place}: {shown(message.text)}")
        return Turn(user, message.text, message.candidates, self.line)


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences of a persona written as one text.

    >>> split_sentences("I sail. I have two dogs!\\nMy boat is red")
    ('I sail.', 'I have two dogs!', 'My boat is red')
    """
    return tuple(filter(None, (part.strip() for part in _SENTENCE_END.split(text))))


def _kind(value: object) -> str:
    """JSON's name for the type of `value`."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
