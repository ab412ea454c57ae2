"""Reads the dialogues of any source: finds out its format, hands it to that format's reader, and chooses a range."""

from __future__ import annotations

import codecs
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast, get_args

from sptune.data import convai2, hub
from sptune.data.dialogue import Dialogue
from sptune.data.draft import Draft, Persona, settle
from sptune.data.json_records import is_document, records_of_document, records_of_lines
from sptune.data.layouts import LAYOUTS, layout_of_text
from sptune.data.lines import BOM, MAX_LINE, Progress, read_lines
from sptune.data.problems import Problem, Report
from sptune.errors import DataError, UsageError

FORMATS = ("auto", "convai2", *LAYOUTS, "hub")
PERSONAS: tuple[str, ...] = get_args(Persona)
SAMPLE = "sample"
SAMPLE_PARTS = ("train", "validation", "test")

_HEAD = 65536  # bytes that tell the format
_LISTED = 20  # problems that an error message lists
_RANGE = re.compile(r"([0-9]*):([0-9]*)")
_CONVAI2_NAME = re.compile(r"(train|valid)_(self|other|both|none)_(original|revised)(_no_cands)?\.txt")
_CONVAI2_SOURCE = (
    "ConvAI2 comes with ParlAI, and as http://parl.ai/downloads/convai2/convai2_fix_723.tgz (docs/data.md)"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a source holds.

    Attributes:
        dialogues: those without an error, in order.
        problems: every fault, by line.
        format: the format read, one of `FORMATS` but auto.
        skipped: dialogues left out because of errors.
    """

    dialogues: tuple[Dialogue, ...]
    problems: tuple[Problem, ...]
    format: str
    skipped: int = 0

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that leave a dialogue out."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def read(
    path: str | Path, *, format: str = "auto", persona: str = "self", progress: Progress | None = None
) -> ReadResult:
    """Read every dialogue of `path` and report every fault, never stopping at bad content.

    Args:
        path: a file; `sample` or `sample:train|validation|test`; `hub:owner/name[:split]`; or a folder that the
            `datasets` library saved.
        format: one of `FORMATS`; auto looks at the beginning of the file.
        persona: which persona to keep: of the responses' speaker (self), of the user (other), both or none.
        progress: called with the bytes read and the bytes in all, for files.

    Raises:
        DataError: nothing there to read: missing, a folder, binary, empty, or of no known format.
        UsageError: a value of `persona` that is not known.
    """
    if format not in FORMATS:
        raise DataError(f"format={format!r} is not known; use one of {', '.join(FORMATS)}")
    if persona not in PERSONAS:
        raise UsageError(f"persona={persona!r} is not known; use one of {', '.join(PERSONAS)}")
    name = str(path)
    report = Report(name)
    source = _sample(name) or Path(name)
    if format == "hub" or name.startswith(hub.PREFIX) or (format == "auto" and hub.is_saved(source)):
        kind, drafts = "hub", list(hub.parse(name, report))
    else:
        kind, drafts = _read_file(source, name, format, report, progress)
    settled = settle(drafts, cast(Persona, persona), report)
    problems = report.problems()
    if not drafts and not problems:
        raise DataError(f"{name}: no dialogue in it; give a file that holds some")
    return ReadResult(settled.dialogues, problems, kind, settled.skipped)


def load_dialogues(
    path: str | Path,
    *,
    format: str = "auto",
    persona: str = "self",
    on_error: str = "stop",
    split: str | None = None,
    progress: Progress | None = None,
) -> list[Dialogue]:
    """The dialogues of `path`, or those in the range `split`.

    Args:
        path: what to read, with `format`, `persona` and `progress`, as in `read`.
        on_error: stop refuses a file with errors; skip leaves out the dialogues that have one and logs them.
        split: "A:B", the dialogues number A to B of those that can be read, counted from 1, both included; either
            side may be empty.

    Raises:
        DataError: as `read`; errors and `on_error="stop"`; nothing left; or a range past the last dialogue.
        UsageError: a malformed range, or an unknown value of `persona` or `on_error`.

    >>> len(load_dialogues("sample:test", split="1:2"))
    2
    """
    if on_error not in ("stop", "skip"):
        raise UsageError(f"on_error={on_error!r} is not known; use stop or skip")
    result = read(path, format=format, persona=persona, progress=progress)
    if result.errors and on_error == "stop":
        raise DataError(_refusal(str(path), result))
    if result.problems:
        _log.warning("%s", _summary(str(path), result))
    if not result.dialogues:
        raise DataError(f"{path}: no dialogue without errors is left; `sptune data check` lists them")
    return select(result.dialogues, split, str(path))


def select(dialogues: Sequence[Dialogue], split: str | None, name: str, *, option: str = "split") -> list[Dialogue]:
    """The dialogues in the range `split` ("A:B", from 1, both included); all of them for None.

    Args:
        dialogues: of `name`.
        split: the range.
        name: where they were read from, for messages.
        option: what names the range, for messages.

    Raises:
        UsageError: not a range.
        DataError: the range goes past the last dialogue of `name`.

    >>> talks = tuple(Dialogue(str(n), (), ()) for n in range(1, 6))
    >>> [talk.id for talk in select(talks, "2:3", "talks.txt")]
    ['2', '3']
    """
    if split is None:
        return list(dialogues)
    found = _RANGE.fullmatch(split.strip())
    if found is None:
        raise UsageError(
            f"{option}={split!r} is not a range; write FIRST:LAST, counted from 1, as in 701:750, 1: or :50"
        )
    first = int(found[1]) if found[1] else 1
    last = int(found[2]) if found[2] else len(dialogues)
    if max(first, last if found[2] else 0) > len(dialogues):
        raise DataError(f"{option}={split!r} goes past the end: {name} has {len(dialogues)} dialogues")
    if first < 1 or last < first:
        raise UsageError(f"{option}={split!r} is empty; the first number is at least 1 and at most the last")
    return list(dialogues[first - 1 : last])


def _sample(name: str) -> Path | None:
    """The file of the bundled dialogues that `name` means; None where it means something else."""
    base, _, part = name.partition(":")
    if base != SAMPLE:
        return None
    if ":" in name and part not in SAMPLE_PARTS:
        raise DataError(f"{name}: no such part of the bundled dialogues; use one of {', '.join(SAMPLE_PARTS)}")
    return Path(__file__).parent / "sample" / f"{part or 'train'}.jsonl"


def _read_file(
    source: Path, name: str, format: str, report: Report, progress: Progress | None
) -> tuple[str, list[Draft]]:
    """The format of a file, and what its reader found."""
    if os.path.isdir(source):
        raise DataError(
            f"{name} is a folder; name a file in it, or use --format hub (data.format in a recipe) for a folder in datasets format"
        )
    if not os.path.exists(source):
        hint = f", or get it: {_CONVAI2_SOURCE}" if _CONVAI2_NAME.fullmatch(source.name) else ""
        raise DataError(f"{name}: no such file; check the path{hint}")
    if not os.path.isfile(source):
        raise DataError(f"{name} is not a regular file; save its content to a file first")
    try:
        with source.open("rb") as file:
            head = _head(file, name)
            kind = _detect(head, name) if format == "auto" else format
            return kind, list(_parse(kind, head, file, report, progress))
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}; check its permissions") from error


def _parse(kind: str, head: str, file: BinaryIO, report: Report, progress: Progress | None) -> Iterator[Draft]:
    size = file.seek(0, 2)
    file.seek(0)
    if kind == "convai2":
        return convai2.parse(read_lines(file, report, progress=progress, size=size), report)
    document = is_document(head)
    lines = read_lines(file, report, limit=None if document else MAX_LINE, progress=progress, size=size)
    records = records_of_document(lines, report) if document else records_of_lines(lines, report)
    return LAYOUTS[kind].parse(records, report)


def _head(file: BinaryIO, name: str) -> str:
    """The beginning of a text file, decoded as well as it goes."""
    raw = file.read(_HEAD)
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{name} is UTF-16; save it as UTF-8")
    if b"\0" in raw:
        raise DataError(f"{name} is binary (a NUL byte at offset {raw.index(0)}); give a text file in UTF-8")
    if not raw.removeprefix(BOM).strip():
        raise DataError(f"{name} is empty; give a file that holds dialogues")
    return raw.removeprefix(BOM).decode("utf-8", errors="replace")


def _detect(head: str, name: str) -> str:
    if head.lstrip().startswith(("{", "[")):
        if kind := layout_of_text(head):
            return kind
        raise DataError(
            f'{name} is JSON without "messages" or "conversations", and not in the columns of a known data set '
            "(docs/data.md); add one, or force a format with --format (data.format in a recipe)"
        )
    if convai2.looks_like(head):
        return "convai2"
    if kind := layout_of_text(head):
        return kind
    known = ", ".join(FORMATS[1:])
    raise DataError(
        f"{name}: the format cannot be told from its beginning; force it with --format (data.format in a recipe): {known}"
    )


def _refusal(name: str, result: ReadResult) -> str:
    errors = result.errors
    listed = "\n".join(f"  {problem}" for problem in errors[:_LISTED])
    more = f"\n  ... and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
    return (
        f"{name}: {_counted(len(errors), 'error')}, in {_counted(result.skipped, 'dialogue')}:\n{listed}{more}\n"
        f"Correct the file (`sptune data check` lists everything), or leave these dialogues out with "
        "data.on_error=skip in a recipe, --on-error skip on the command line"
    )


def _summary(name: str, result: ReadResult) -> str:
    """What was left out and what else was found, for the log."""
    skipped = [f"{problem}" for problem in result.errors[:_LISTED]]
    warnings = len(result.problems) - len(result.errors)
    counts = f"{_counted(result.skipped, 'dialogue')} with errors left out, {_counted(warnings, 'warning')}"
    listed = "".join(f"\n  {line}" for line in skipped)
    return f"{name}: {counts} (`sptune data check` lists everything){listed}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
