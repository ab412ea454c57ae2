"""The values of a JSON file, each with its line: one object a line, or an array, or objects laid out over several lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sptune.data.lines import Line
from sptune.data.problems import Report, shown

_DECODER = json.JSONDecoder(strict=False)  # control characters are reported as such, not as broken JSON
_SEPARATORS = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Record:
    """One value of a file, or one row of a data set.

    Attributes:
        line: where it begins, counted from 1; the row, for a data set without lines.
        value: what it holds.
        faulty: it has an error that has been reported: nothing more need be said about it.
    """

    line: int
    value: object = None
    faulty: bool = False


def is_document(head: str) -> bool:
    """Whether `head` begins an array, or an object laid out over several lines, rather than one object a line."""
    first = head.lstrip().split("\n", 1)[0].strip()
    return first.startswith("[") or first == "{"


def records_of_lines(lines: Iterable[Line], report: Report) -> Iterator[Record]:
    """The records of a JSONL file: one object a line. Blank lines are passed over."""
    for line in lines:
        if not line.text.strip():
            continue
        if line.faulty:
            yield Record(line.number, faulty=True)
            continue
        try:
            yield Record(line.number, _DECODER.decode(line.text))
        except (ValueError, RecursionError) as error:
            report.add(line.number, "invalid-json", _why(error, line.text))
            yield Record(line.number, faulty=True)


def records_of_document(lines: Iterable[Line], report: Report) -> Iterator[Record]:
    """The records of a JSON array, or of objects laid out over several lines. Held in memory whole.

    Broken JSON ends the reading: where the next record begins cannot be known.
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
            value, place = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            where = number if isinstance(error, RecursionError) else getattr(error, "lineno", number)
            report.add(where, "invalid-json", f"{_why(error, text[start:])}; nothing after this is read")
            yield Record(number, faulty=True)
            return
        last = number + text.count("\n", start, place)
        yield Record(number, value, faulty=not bad.isdisjoint(range(number, last + 1)))
        number = last


def kind_of(value: object) -> str:
    """JSON's name for the type of `value`."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _why(error: Exception, text: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at column {error.colno}: {error.msg}: {shown(text.strip())}"
    return f"not JSON that can be read ({type(error).__name__}): {shown(text.strip())}"
