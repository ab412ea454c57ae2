"""A report as a tree of plain parts, which `markdown` and `page` write down. No part holds markup: all text is text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Tone = Literal["plain", "better", "worse"]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Warnings:
    """What a person should know before trusting the rest."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines for a terminal, or the text of a file."""

    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table; the tone says whether it is good news, the detail stands small below."""

    text: str
    tone: Tone = "plain"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; a heading has one cell, which names the rows below it."""

    cells: tuple[Cell, ...]
    heading: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table. Its first column names the rows; all others hold numbers, unless it is `wordy`."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    wordy: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure that matters: its name, value and what to compare it with."""

    label: str
    value: str
    detail: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Tiles:
    """The figures that matter most, side by side."""

    items: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot, `plots/NAME.png`.

    Attributes:
        name: of the file.
        title: what it shows, for those who cannot see it, and as its title where there is none in the picture.
        caption: how to read it.
        width: inches.
    """

    name: str
    title: str
    caption: str
    width: float


@dataclass(frozen=True, slots=True)
class SampleReply:
    """What one speaker said.

    Attributes:
        speaker: human, or the name of a system.
        text: the reply.
        detail: e.g. the chosen prompt and its score.
        main: whether the report is about this speaker.
    """

    speaker: str
    text: str
    detail: str = ""
    main: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One context and the replies to it."""

    title: str
    persona: tuple[str, ...]
    user: str
    replies: tuple[SampleReply, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """Parts that most readers skip, under one line that says what they are."""

    summary: str
    blocks: tuple[Block, ...]


Block: TypeAlias = "Paragraph | Bullets | Warnings | Commands | Table | Tiles | Plot | Sample | Details"


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the report."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The title as the end of a link."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report. Sections without blocks are left out by whoever makes it."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def table_row(*cells: str) -> Row:
    """A row of plain cells."""
    return Row(tuple(map(Cell, cells)))


def signed(value: float, decimals: int) -> str:
    """With a sign, and a true minus; what rounds to zero has none.

    >>> signed(-1.5, 1), signed(-0.01, 1), signed(2.25, 2)
    ('−1.5', '0.0', '+2.25')
    """
    text = f"{value:+,.{decimals}f}"
    return text.replace("-", "−") if any(digit in text for digit in "123456789") else text[1:]
