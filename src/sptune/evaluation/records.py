"""Frozen dataclasses as JSON lines, one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sptune.errors import DataError
from sptune.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record")

_FIX = "give a file that `sptune evaluate --output` wrote"


def write_records(path: Path, records: Iterable[DataclassInstance]) -> None:
    """Write one JSON object a line, the whole file or nothing.

    Raises:
        StorageError: the file cannot be written.
    """
    write_text(path, "".join(f"{record_line(one)}\n" for one in records))


def record_line(record: DataclassInstance) -> str:
    """A record as it stands in its line."""
    return json.dumps(asdict(record), ensure_ascii=False, allow_nan=False)


def read_records(path: str | Path, kind: type[Record]) -> list[Record]:
    """Read a file that `write_records` wrote.

    Args:
        path: the file.
        kind: class of the records.

    Raises:
        DataError: missing, empty, or a line that is no such record.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # not splitlines: JSON keeps U+2028 as it is
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); {_FIX}") from error
    reader = TypeAdapter(kind)
    records = [_parse(reader, line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not records:
        raise DataError(f"{path}: is empty; {_FIX}")
    return records


def _parse(reader: TypeAdapter[Any], line: str, place: str) -> Any:
    try:
        return reader.validate_json(line)
    except ValidationError as error:
        fault = error.errors()[0]
        field = "".join(f"{part}: " for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        raise DataError(f"{place}: {field}{reason}; {_FIX}, unchanged") from error
