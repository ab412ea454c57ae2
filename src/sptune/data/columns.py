"""Dialogues in the columns of well-known data sets: what a row says is put into the `messages` form, and read as such."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sptune.data.draft import Draft
from sptune.data.json_records import Record, kind_of
from sptune.data.messages import MESSAGES, parse_record, unreadable
from sptune.data.problems import Report

Row = dict[str, Any]

_ROLES = ("user", "assistant")
_SPEAKERS = ("Speaker 1", "Speaker 2")  # of the same roles, in Multi-Session Chat
_SILENCE = re.compile(r"__\s*silence\s*__", re.IGNORECASE)
_SPEAKER = re.compile(r"\s*\[?user ([12])(?:'s name)?\]?\s*:\s*", re.IGNORECASE)


class MisfitError(Exception):
    """A row whose shape is not that of its columns: a problem code and what is wrong."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse(records: Iterable[Record], report: Report, *, convert: Callable[[Row], Row]) -> Iterator[Draft]:
    """The dialogues of `records`, one each, which `convert` puts into the `messages` form."""
    for record in records:
        if record.faulty:
            yield unreadable(record.line)
            continue
        try:
            if not isinstance(record.value, dict):
                raise MisfitError("wrong-type", f"{kind_of(record.value)} where an object was expected")
            value = convert(record.value)
        except MisfitError as misfit:
            report.add(record.line, misfit.code, str(misfit))
            yield unreadable(record.line)
        else:
            yield parse_record(value, record.line, MESSAGES, report)


def personachat(row: Row) -> Row:
    """PersonaChat: `personality`, and `utterances` of `history` and `candidates`; the last candidate is the response.

    >>> said = {"history": ["hi"], "candidates": ["no idea", "hello"]}
    >>> personachat({"personality": ["i sail ."], "utterances": [said]})["messages"][1]
    {'role': 'assistant', 'content': 'hello', 'candidates': ['no idea', 'hello']}
    """
    texts: list[Any] = []
    answers: dict[int, list[Any]] = {}
    for number, utterance in enumerate(_objects(row, "utterances")):
        place = f"utterances[{number}]."
        history, candidates = (_list(utterance, key, place) for key in ("history", "candidates"))
        if not candidates:
            raise MisfitError("no-turns", f"{place}candidates is empty; its last one is the response")
        texts = [*history, candidates[-1]]
        answers[len(history)] = candidates
    if texts and isinstance(texts[0], str) and _SILENCE.fullmatch(texts[0].strip()):
        texts[0] = ""
    messages: list[Row] = _alternating(texts, last="assistant")
    for turn, candidates in answers.items():
        if turn < len(messages):
            messages[turn] = {"role": "assistant", "content": candidates[-1], "candidates": candidates}
    return {"id": row.get("conv_id"), "persona": row.get("personality"), "messages": messages}


def joined_utterances(records: Iterable[Record]) -> Iterator[Record]:
    """Rows of one utterance each (`history`, `candidates`) as rows of one dialogue each; others pass unchanged.

    Neighbouring rows belong together while they share `conv_id`, or, without one, while the history goes on.
    """
    whole: Record | None = None
    for record in records:
        row = record.value
        if record.faulty or not isinstance(row, dict) or "utterances" in row:
            if whole:
                yield whole
            whole = None
            yield record
        elif whole and _goes_on(whole.value, row):
            whole.value["utterances"].append(row)  # type: ignore[index]
        else:
            if whole:
                yield whole
            whole = Record(record.line, {**row, "utterances": [row]})
    if whole:
        yield whole


def xpersona(row: Row) -> Row:
    """XPersona: `persona`, and `dialogue`, a list of pairs of what the user says and the response."""
    pairs = _list(row, "dialogue")
    messages = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list) or not 1 <= len(pair) <= 2:
            raise MisfitError("wrong-type", f"dialogue[{number}] is not a pair of user message and response")
        messages += _alternating(pair, last=_ROLES[len(pair) - 1])
    return {**_named(row), "persona": row.get("persona"), "messages": messages}


def multi_session(row: Row) -> Row:
    """Multi-Session Chat, one session a row, as on the hub or as ParlAI has it; the second speaker is the persona."""
    if "dialog" in row:
        personas = _list(row, "personas")
        items = enumerate(_objects(row, "dialog"))
        said = [(item.get("id", f"Speaker {place % 2 + 1}"), item.get("text")) for place, item in items]
        name = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
        where = [name.get(key) for key in ("initial_data_id", "session_id")]  # type: ignore[union-attr]
    else:
        personas = [row.get("persona1"), row.get("persona2")]
        speakers, texts = _list(row, "speaker"), _list(row, "dialogue")
        if len(speakers) != len(texts):
            raise MisfitError("wrong-type", f"{len(texts)} texts in dialogue, but {len(speakers)} in speaker")
        said = list(zip(speakers, texts, strict=True))
        where = [row.get(key) for key in ("dialoug_id", "session_id")]  # spelt so in the data set
    if len(personas) != 2:
        raise MisfitError("wrong-type", f"{len(personas)} personas, not those of two speakers")
    return {
        "id": None if None in where else "-".join(map(str, where)),
        "persona": personas[1],
        "partner_persona": personas[0],
        "messages": [{"role": _role(speaker), "content": text} for speaker, text in said],
    }


def synthetic(row: Row) -> Row:
    """Synthetic-Persona-Chat: two personas and a conversation as texts of several lines; user 2 is the persona."""
    text = row.get("Best Generated Conversation")
    if not isinstance(text, str):
        raise MisfitError("wrong-type", f"'Best Generated Conversation' is {kind_of(text)}, not a string")
    messages: list[Row] = []
    for line in filter(str.strip, text.split("\n")):
        if found := _SPEAKER.match(line):
            messages.append({"role": _ROLES[int(found[1]) - 1], "content": line[found.end() :].strip()})
        elif messages:
            messages[-1]["content"] += f" {line.strip()}"
        else:
            raise MisfitError(
                "unknown-role", f"the conversation begins with neither 'User 1:' nor 'User 2:' but {line!r}"
            )
    personas = {"persona": row.get("user 2 personas"), "partner_persona": row.get("user 1 personas")}
    return {**_named(row), **personas, "messages": messages}


def _role(speaker: Any) -> Any:
    """The role of a speaker of Multi-Session Chat; whoever else it names is reported as any unknown role is."""
    return _ROLES[_SPEAKERS.index(speaker)] if speaker in _SPEAKERS else speaker


def _alternating(texts: list[Any], *, last: str) -> list[Row]:
    """Messages of two speakers in turn, the last one by `last`."""
    shift = len(texts) - 1 - _ROLES.index(last)
    return [{"role": _ROLES[(place - shift) % 2], "content": text} for place, text in enumerate(texts)]


def _goes_on(dialogue: Any, row: Row) -> bool:
    """Whether the utterance in `row` is a later one of `dialogue`."""
    if row.get("conv_id") is not None or dialogue.get("conv_id") is not None:
        return bool(row.get("conv_id") == dialogue.get("conv_id"))
    last = dialogue["utterances"][-1]
    before, candidates, history = last.get("history"), last.get("candidates"), row.get("history")
    if row.get("personality") != last.get("personality"):
        return False
    if not (isinstance(before, list) and isinstance(candidates, list) and isinstance(history, list)):
        return False  # which of them is no list is said where the utterance is read
    said = [*before, *candidates[-1:]]
    return len(history) > len(said) and history[: len(said)] == said


def _named(row: Row) -> Row:
    return {"id": row.get("id")}


def _list(row: Row, key: str, place: str = "") -> list[Any]:
    value = row.get(key)
    if value is None:
        raise MisfitError("missing-key", f"no key {place + key!r}")
    if not isinstance(value, list):
        raise MisfitError("wrong-type", f"{place}{key} is {kind_of(value)}, not a list")
    return value


def _objects(row: Row, key: str) -> list[Row]:
    """A list of objects; `datasets` may have turned it into an object of lists."""
    value = row.get(key)
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        value = [dict(zip(value, cells, strict=False)) for cells in zip(*value.values(), strict=False)]
    items = _list({key: value}, key)
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise MisfitError("wrong-type", f"{key}[{number}] is {kind_of(item)}, not an object")
    return items
