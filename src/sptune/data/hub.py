"""Dialogues in a data set of the Hugging Face hub, or in a local folder in the `datasets` library's format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sptune.data.draft import Draft
from sptune.data.json_records import Record
from sptune.data.layouts import LAYOUTS, Layout, layout_of_columns
from sptune.data.problems import Report
from sptune.errors import DataError
from sptune.extras import how_to_get

PREFIX = "hub:"
CONVERTED = "refs/convert/parquet"  # the hub's own conversion of a data set, which needs no script of its authors


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of a data set are.

    Attributes:
        source: a local folder, or a hub id `owner/name`.
        part: a configuration of the data set, or a folder in it; None for none.
        revision: branch, tag or commit; None is the newest.
        split: name of the split; None is `train`, or the only one.
    """

    source: str
    part: str | None = None
    revision: str | None = None
    split: str | None = None


def is_saved(path: Path) -> bool:
    """Whether `path` is a folder written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json"))


def place_of(name: str) -> Place:
    """Takes `hub:owner/name[/part][@revision][:split]`, or `[hub:]folder[:split]`, apart.

    >>> place_of("hub:owner/name/full@refs/convert/parquet:test")
    Place(source='owner/name', part='full', revision='refs/convert/parquet', split='test')
    """
    source, split = name.removeprefix(PREFIX), ""
    if not os.path.isdir(source):
        head, colon, tail = source.rpartition(":")
        source, split = (head, tail) if colon else (source, "")
    if os.path.isdir(source) or source.startswith((".", "/", "~")):
        return Place(source, split=split or None)
    source, _, revision = source.partition("@")
    owner, _, rest = source.partition("/")
    title, _, part = rest.partition("/")
    return Place(f"{owner}/{title}" if title else owner, part or None, revision or None, split or None)


def parse(name: str, report: Report) -> Iterator[Draft]:
    """The dialogues of a data set; a problem's line is its row, counted from 1.

    Args:
        name: `hub:owner/name` or the path of a local folder, either with `:split` at its end; without it, the split
            `train`, or the only one there is. A hub id may name a configuration or folder and a revision, see `place_of`.
        report: receives the problems of the rows.

    Raises:
        DataError: the data set, the split or the `datasets` library is missing, or no columns hold dialogues.
    """
    rows = _load(name)
    layout = _layout(name, rows.column_names)
    rows = rows.select_columns([column for column in rows.column_names if column in layout.keys])
    return layout.parse((Record(number, row) for number, row in enumerate(rows, start=1)), report)


def _layout(name: str, columns: list[str]) -> Layout:
    if kind := layout_of_columns(columns):
        return LAYOUTS[kind]
    raise DataError(
        f"{name}: no columns that hold dialogues, only {', '.join(columns)} (docs/data.md lists those that are known); "
        "convert it to messages in JSONL first"
    )


def _load(name: str) -> Any:
    """The rows as a `datasets.Dataset`."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{name}: the datasets library is not installed; {how_to_get('hub')}") from error
    place = place_of(name)
    try:
        if is_saved(Path(place.source)):
            found = datasets.load_from_disk(place.source)
        else:
            found = datasets.load_dataset(place.source, revision=place.revision, **_part(place))
    except Exception as error:  # the library raises many kinds, from its own to those of HTTP clients
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise DataError(f"{name}: the data set cannot be loaded: {reason}; {_advice(reason)}") from error
    return _choose(name, found, place.split) if isinstance(found, dict) else _undivided(name, found, place.split)


def _part(place: Place) -> dict[str, str]:
    """The part as `load_dataset` takes it: a configuration where there is one of that name, else a folder."""
    import datasets

    if place.part is None:
        return {}
    configurations = datasets.get_dataset_config_names(place.source, revision=place.revision)
    return {"name" if place.part in configurations else "data_dir": place.part}


def _advice(reason: str) -> str:
    if "script" in reason:
        return f"take the hub's own conversion of it, {PREFIX}OWNER/NAME@{CONVERTED}"
    if "Config name is missing" in reason:
        return f"name one of its configurations, as in {PREFIX}OWNER/NAME/CONFIGURATION"
    return "check its id and your connection"


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
