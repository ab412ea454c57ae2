"""The forms and columns in which JSON files and data sets hold dialogues, and how each is told and read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from sptune.data import columns, messages
from sptune.data.draft import Draft
from sptune.data.json_records import Record
from sptune.data.problems import Report


@dataclass(frozen=True, slots=True)
class Layout:
    """One form of dialogues.

    Attributes:
        told_by: alternatives, each the keys (or columns) that tell it together, the one that holds the dialogue last.
        parse: reads its dialogues.
        also: the other keys that it reads.
    """

    told_by: tuple[tuple[str, ...], ...]
    parse: Callable[[Iterable[Record], Report], Iterator[Draft]]
    also: tuple[str, ...] = ()

    @property
    def keys(self) -> set[str]:
        """Every key that it reads."""
        return {key for keys in self.told_by for key in keys} | set(self.also)


def _personachat(records: Iterable[Record], report: Report) -> Iterator[Draft]:
    return columns.parse(columns.joined_utterances(records), report, convert=columns.personachat)


_BESIDE = ("id", "persona", "partner_persona")

LAYOUTS = {
    "messages": Layout((("messages",),), partial(messages.parse, form=messages.MESSAGES), _BESIDE),
    "sharegpt": Layout((("conversations",),), partial(messages.parse, form=messages.SHAREGPT), _BESIDE),
    "personachat": Layout(
        (("personality", "utterances"), ("personality", "candidates", "history")), _personachat, ("conv_id",)
    ),
    "xpersona": Layout((("persona", "dialogue"),), partial(columns.parse, convert=columns.xpersona), ("id",)),
    "msc": Layout(
        (("persona1", "persona2", "speaker", "dialogue"), ("personas", "dialog")),
        partial(columns.parse, convert=columns.multi_session),
        ("dialoug_id", "session_id", "metadata"),
    ),
    "synthetic": Layout(
        (("user 1 personas", "user 2 personas", "Best Generated Conversation"),),
        partial(columns.parse, convert=columns.synthetic),
        ("id",),
    ),
}


def layout_of_text(head: str) -> str | None:
    """Name of the layout that `head`, the beginning of a JSON file, is in: that of its first dialogue; None for none.

    >>> layout_of_text('{"personality": ["i sail ."], "utterances": []}')
    'personachat'
    """
    found: dict[str, int] = {}
    for name, layout in LAYOUTS.items():
        for keys in layout.told_by:
            places = [re.search(rf'"{re.escape(key)}"\s*:', head) for key in keys]
            if all(places) and (last := places[-1]):
                found[name] = min(last.start(), found.get(name, len(head)))
    return min(found, key=lambda name: found[name]) if found else None


def layout_of_columns(names: Collection[str]) -> str | None:
    """Name of the layout of a table with these columns; None for none."""
    return next(
        (name for name, layout in LAYOUTS.items() for keys in layout.told_by if set(keys) <= set(names)),
        None,
    )
