"""Dialogues as JSON: `messages` of user and assistant, or ShareGPT `conversations`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.draft import Draft
from sptune.data.json_records import Record, kind_of
from sptune.data.lines import bad_character
from sptune.data.problems import Report, shown


@dataclass(frozen=True, slots=True)
class Form:
    """The keys of one JSON form, and its speakers' names for system, user and assistant."""

    messages: str
    role: str
    text: str
    roles: dict[str, str]


MESSAGES = Form("messages", "role", "content", {"system": "system", "user": "user", "assistant": "assistant"})
SHAREGPT = Form(
    "conversations",
    "from",
    "value",
    {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")


def parse(records: Iterable[Record], report: Report, *, form: Form) -> Iterator[Draft]:
    """The dialogues of `records`, one each."""
    for record in records:
        yield unreadable(record.line) if record.faulty else parse_record(record.value, record.line, form, report)


def unreadable(line: int) -> Draft:
    """What is left of a dialogue that begins on `line` and cannot be read."""
    return Draft(Dialogue("", (), ()), line, faulty=True)


def parse_record(record: object, line: int, form: Form, report: Report) -> Draft:
    """The dialogue in one JSON object that begins on `line`."""
    return _Reading(line, form, report).draft(record)


@dataclass(slots=True)
class _Message:
    role: str
    text: str
    candidates: tuple[str, ...]
    place: str
    learn: bool = True


@dataclass
class _Reading:
    """A JSON object while it is read."""

    line: int
    form: Form
    report: Report
    faulty: bool = False
    _messages: list[_Message] = field(default_factory=list)

    def fault(self, code: str, message: str) -> None:
        """Report a problem of this dialogue."""
        self.faulty |= self.report.add(self.line, code, message)

    def draft(self, record: object) -> Draft:
        if not isinstance(record, dict):
            self.fault("wrong-type", f"{kind_of(record)} where an object was expected")
            return unreadable(self.line)
        persona = self._sentences(record.get("persona"), "persona")
        partner = self._sentences(record.get("partner_persona"), "partner_persona")
        name = self._id(record.get("id"))
        self._read_messages(record.get(self.form.messages))
        persona = self._with_system(persona)
        turns = () if self.faulty else self._turns()
        return Draft(Dialogue(name, persona, turns, partner), self.line, self.faulty)

    def _id(self, value: object) -> str:
        if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
            return "" if value is None else self._text(str(value), "id")
        self.fault("wrong-type", f"id is {kind_of(value)}, not a string")
        return ""

    def _text(self, value: object, place: str) -> str:
        """A string without the space around it; anything else is reported."""
        if not isinstance(value, str):
            self.fault("wrong-type", f"{place} is {kind_of(value)}, not a string")
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
            self.fault("wrong-type", f"{place} is {kind_of(value)}, not a list of strings")
            return ()
        sentences = []
        for number, item in enumerate(value):
            sentences.append(self._text(item, f"{place}[{number}]"))
            if isinstance(item, str) and not item.strip():
                self.fault("blank-persona", f"{place}[{number}] is blank")
        return tuple(filter(None, sentences))

    def _read_messages(self, value: object) -> None:
        key = self.form.messages
        if value is None:
            self.fault("missing-key", f"no key {key!r}")
        elif not isinstance(value, list):
            self.fault("wrong-type", f"{key} is {kind_of(value)}, not a list")
        else:
            for number, item in enumerate(value):
                self._read_message(item, f"{key}[{number}]")

    def _read_message(self, item: object, place: str) -> None:
        if not isinstance(item, dict):
            self.fault("wrong-type", f"{place} is {kind_of(item)}, not an object")
            return
        missing = [key for key in (self.form.role, self.form.text) if key not in item]
        if missing:
            self.fault("missing-key", f"{place} has no {' and no '.join(map(repr, missing))}")
            return
        name = item[self.form.role]
        role = self.form.roles.get(name) if isinstance(name, str) else None
        text = self._text(item[self.form.text], f"{place}.{self.form.text}")
        candidates = self._candidates(item.get("candidates"), f"{place}.candidates")
        learn = self._learn(item.get("weight"), f"{place}.weight")
        if role is None:
            bad = shown(name) if isinstance(name, str) else kind_of(name)
            known = ", ".join(self.form.roles)
            self.fault("unknown-role", f"{place}.{self.form.role} is {bad}, not one of {known}")
        elif role == "system" and any(message.role != "system" for message in self._messages):
            self.fault("late-persona", f"{place} is a system message after the first turn")
        else:
            self._messages.append(_Message(role, text, candidates, place, learn))

    def _learn(self, value: object, place: str) -> bool:
        """Whether a message is an example: `weight` as OpenAI's fine-tuning files have it, 1 (or absent) or 0."""
        if value is not None and value not in (0, 1):
            bad = repr(value)[:20] if isinstance(value, int | float) else kind_of(value)
            self.fault("wrong-weight", f"{place} is {bad}, not 0 or 1")
        return value != 0

    def _candidates(self, value: object, place: str) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fault("wrong-type", f"{place} is {kind_of(value)}, not a list of strings")
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
            self.fault("no-turns", f"{self.form.messages} holds no answer of the assistant")
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
                talk[-1] = _Message(message.role, joined, (), talk[-1].place, talk[-1].learn and message.learn)
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
        return Turn(user, message.text, message.candidates, self.line, message.learn)


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences of a persona written as one text.

    >>> split_sentences("I sail. I have two dogs!\\nMy boat is red")
    ('I sail.', 'I have two dogs!', 'My boat is red')
    """
    return tuple(filter(None, (part.strip() for part in _SENTENCE_END.split(text))))
