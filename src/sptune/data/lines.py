"""The lines of a text file, one at a time, with what is wrong in their bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from sptune.data.problems import Report

MAX_LINE = 1_000_000  # bytes; a longer line is most likely a file that is not what it seems
BOM = b"\xef\xbb\xbf"
Progress = Callable[[int, int], None]  # bytes read so far, bytes in all

# C0 and C1 controls and DEL; a tab is text, and newlines end lines.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end.

    Attributes:
        number: counted from 1.
        text: what it says; only a guess where `faulty`.
        faulty: its bytes have an error that has been reported: nothing more need be said about it.
    """

    number: int
    text: str
    faulty: bool = False


def read_lines(
    file: BinaryIO, report: Report, *, limit: int | None = MAX_LINE, progress: Progress | None = None, size: int = 0
) -> Iterator[Line]:
    """The lines of `file`, UTF-8 with or without a byte order mark, without ever holding more than one.

    Args:
        file: open at its start.
        report: receives the problems `wrong-encoding`, `control-character` and `long-line`.
        limit: longest line in bytes; None for any length.
        progress: called now and then with the bytes read and `size`.
        size: bytes in the file.
    """
    offset = 0
    number = 0
    while raw := file.readline(-1 if limit is None else limit + 1):
        number += 1
        start, offset = offset, offset + len(raw)
        too_long = limit is not None and len(raw) > limit and not raw.endswith(b"\n")
        if limit is not None and too_long:
            offset += _skip_line(file, limit)
            report.add(number, "long-line", f"line of {offset - start:,} bytes, more than {limit:,}")
        if start == 0 and raw.startswith(BOM):
            raw, start = raw[len(BOM) :], len(BOM)
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        yield _cut(number, raw) if too_long else _line(number, raw, start, report)
        if progress is not None and number % 256 == 0:
            progress(offset, size)
    if progress is not None:
        progress(offset, size)


def _skip_line(file: BinaryIO, step: int) -> int:
    """Read on to the end of the line; returns the number of bytes left behind."""
    skipped = 0
    while raw := file.readline(step):
        skipped += len(raw)
        if raw.endswith(b"\n"):
            break
    return skipped


def _cut(number: int, raw: bytes) -> Line:
    """The beginning of an over-long line: enough to see what kind of line it was."""
    return Line(number, raw[:1000].decode("utf-8", errors="replace"), faulty=True)


def _line(number: int, raw: bytes, start: int, report: Report) -> Line:
    """One line decoded; `start` is its offset in the file."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = start + error.start
        message = f"byte 0x{raw[error.start]:02x} at offset {where} of the file is not UTF-8 ({error.reason})"
        report.add(number, "wrong-encoding", message)
        return Line(number, raw.decode("utf-8", errors="replace"), faulty=True)
    if fault := bad_character(text):
        report.add(number, fault[0], fault[1])
    return Line(number, text, faulty=fault is not None)


def clean(text: str) -> str:
    """`text` without the characters that `bad_character` finds: what a person types, or a model says, may hold any.

    >>> clean("red \\x1b[31m alert")
    'red [31m alert'
    """
    return _SURROGATE.sub("", _CONTROL.sub("", text))


def bad_character(text: str) -> tuple[str, str] | None:
    """The first character of `text` that no dialogue should have, as problem code and message, or None.

    >>> bad_character("bell\\x07")
    ('control-character', 'control character U+0007 at column 5')
    """
    if found := _CONTROL.search(text):
        return "control-character", f"control character U+{ord(found[0]):04X} at column {found.start() + 1}"
    if found := _SURROGATE.search(text):
        return "unpaired-surrogate", f"unpaired surrogate U+{ord(found[0]):04X} at column {found.start() + 1}"
    return None
