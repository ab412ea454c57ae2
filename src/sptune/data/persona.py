"""Reads a persona: a text file of sentences, a JSON list of them, or the first dialogue of a dialogue file."""

from __future__ import annotations

import json
from pathlib import Path

from sptune.data.layouts import layout_of_text
from sptune.data.lines import bad_character, read_lines
from sptune.data.load import read
from sptune.data.problems import Report, shown
from sptune.errors import DataError

MAX_BYTES = 100_000  # a persona is a handful of sentences; a larger file is something else


def load_persona(path: str | Path) -> tuple[str, ...]:
    """The persona sentences of `path`.

    Args:
        path: a text file with one sentence a line; a JSON list of strings; or any dialogue file that `sptune data show`
            reads (also `sample` and `hub:owner/name`), of which the first dialogue's persona is taken.

    Raises:
        DataError: missing, unreadable, empty, or a line that is no sentence; the message names file and line.

    >>> len(load_persona("sample:test")) >= 4
    True
    """
    name, file = str(path), Path(path).expanduser()
    if not file.is_file():
        return _of_first_dialogue(name)
    try:
        with file.open("rb") as stream:
            head = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}; check its permissions") from error
    text = head.decode("utf-8-sig", errors="replace")
    json_like = text.lstrip()[:1] if file.suffix != ".txt" else ""
    if layout_of_text(text) or "your persona:" in text or json_like == "{":
        return _of_first_dialogue(str(file))
    if len(head) > MAX_BYTES or b"\0" in head:
        raise DataError(
            f"{name} is no persona file: binary, or larger than {MAX_BYTES:,} bytes; write one sentence a line"
        )
    lines = _lines(file, name)
    if json_like == "[":
        return _of_list("\n".join(lines), name)
    return _not_empty(tuple(filter(None, map(str.strip, lines))), name)


def split_persona(text: str) -> tuple[str, ...]:
    """Sentences written in one line, separated by `|`.

    >>> split_persona("I sail. | I bake.")
    ('I sail.', 'I bake.')
    """
    return tuple(filter(None, (part.strip() for part in text.split("|"))))


def _lines(file: Path, name: str) -> list[str]:
    report = Report(name)
    with file.open("rb") as stream:
        lines = [line.text for line in read_lines(stream, report)]
    if problems := report.problems():
        raise DataError(str(problems[0]))
    return lines


def _of_list(text: str, name: str) -> tuple[str, ...]:
    try:
        sentences = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"{name}:{getattr(error, 'lineno', 1)}"
        raise DataError(f"{place}: not JSON ({error}); write a list of strings, or one sentence a line") from error
    for number, sentence in enumerate(sentences, start=1):
        if not isinstance(sentence, str):
            bad = shown(repr(sentence))
            raise DataError(f"{name}:1: item {number} of the list is {bad}, not a string; put sentences in quotes")
        if fault := bad_character(sentence):
            raise DataError(f"{name}:1: item {number} of the list has {fault[1]}; remove the character")
    return _not_empty(tuple(filter(None, map(str.strip, sentences))), name)


def _of_first_dialogue(name: str) -> tuple[str, ...]:
    result = read(name)
    if not result.dialogues:
        raise DataError(str(result.problems[0]))
    first = result.dialogues[0]
    if not first.persona:
        raise DataError(f"{name}: its first dialogue, {first.id!r}, has no persona; name a file that has one")
    return first.persona


def _not_empty(sentences: tuple[str, ...], name: str) -> tuple[str, ...]:
    if not sentences:
        raise DataError(f"{name}: no sentence in it; write one a line, such as: I sail.")
    return sentences
