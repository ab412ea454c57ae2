"""Dialogues in a data set of the Hugging Face hub, or in a local folder in the `datasets` library's format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sptune.data.draft import Draft
from sptune.data.messages import LAYOUTS, Layout, parse_record
from sptune.data.problems import Report
from sptune.errors import DataError

PREFIX = "hub:"


def is_saved(path: Path) -> bool:
    """Whether `path` is a folder written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json"))


def parse(name: str, report: Report) -> Iterator[Draft]:
    """The dialogues of a data set; a problem's line is its row, counted from 1.

    Args:
        name: `hub:owner/name` or the path of a local folder, either with `:split` at its end; without it, the split
            `train`, or the only one there is.
        report: receives the problems of the rows.

    Raises:
        DataError: the data set, the split or the `datasets` library is missing, or no column holds dialogues.
    """
    rows = _load(name)
    layout = _layout(name, rows.column_names)
    used = ("id", "persona", "partner_persona", layout.messages)
    rows = rows.select_columns([column for column in rows.column_names if column in used])
    for number, row in enumerate(rows, start=1):
        yield parse_record(row, number, layout, report)


def _layout(name: str, columns: list[str]) -> Layout:
    for layout in LAYOUTS.values():
        if layout.messages in columns:
            return layout
    wanted = " or ".join(repr(layout.messages) for layout in LAYOUTS.values())
    raise DataError(f"{name}: no column {wanted}, only {', '.join(columns)}; convert it to messages in JSONL first")


def _load(name: str) -> Any:
    """The rows as a `datasets.Dataset`."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{name}: the datasets library is not installed; pip install 'sptune[hub]'") from error
    source, split = _split_name(name)
    try:
        load = datasets.load_from_disk if is_saved(Path(source)) else datasets.load_dataset
        found = load(source)
    except Exception as error:  # the library raises many kinds, from its own to those of HTTP clients
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise DataError(f"{name}: the data set cannot be loaded: {reason}; check its id and your connection") from error
    return _choose(name, found, split) if isinstance(found, dict) else _undivided(name, found, split)


def _split_name(name: str) -> tuple[str, str | None]:
    source = name.removeprefix(PREFIX)
    if os.path.isdir(source) or ":" not in source:
        return source, None
    source, _, split = source.rpartition(":")
    return source, split


def _choose(name: str, found: dict[str, Any], split: str | None) -> Any:
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    wanted = split or "train"
    if wanted not in found:
        raise DataError(
            f"{name}: no split {wanted!r}; add one of {', '.join(found)} to the name, as in {PREFIX}NAME:SPLIT"
        )
    return found[wanted]


def _undivided(name: str, found: Any, split: str | None) -> Any:
    if split is not None:
        raise DataError(f"{name}: this folder has no splits; leave out ':{split}'")
    return found
