"""A report as Markdown, with its plots as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import singledispatch

from sptune.report.document import (
    Block,
    Bullets,
    Cell,
    Commands,
    Details,
    Document,
    Paragraph,
    Plot,
    Row,
    Sample,
    Section,
    Table,
    Tiles,
    Warnings,
)

_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is just that
_LINE_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[#+-](?:[#\s]|$)))")  # of a list or a heading


def to_markdown(document: Document) -> str:
    """The whole report. Text that people or models wrote cannot become markup."""
    parts = [f"# {escape(document.title)}", escape(document.subtitle)]
    parts += [_section(section) for section in document.sections]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    r"""`text` so that Markdown shows it as it is, in one line.

    >>> print(escape("1. *so* <b> 2.5"))
    1\. \*so\* &lt;b&gt; 2.5
    """
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINE_START.sub(r"\1\\", _SPECIAL.sub(r"\\\g<0>", flat))


def _section(section: Section) -> str:
    return "\n\n".join([f"## {escape(section.title)}", *map(_block, section.blocks)])


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(f"no Markdown for {type(block).__name__}")


@_block.register
def _paragraph(block: Paragraph) -> str:
    return _prose(block.text)


@_block.register
def _bullets(block: Bullets) -> str:
    return "\n".join(f"- {_prose(item)}" for item in block.items)


@_block.register
def _warnings(block: Warnings) -> str:
    return "\n".join(["> **Beware**", ">", *(f"> - {_prose(item)}" for item in block.items)])


@_block.register
def _commands(block: Commands) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
    return f"{fence}\n{block.text}\n{fence}"


@_block.register
def _tiles(block: Tiles) -> str:
    lines = (f"- **{escape(tile.label)}: {escape(tile.value)}** ({escape(tile.detail)})" for tile in block.items)
    return "\n".join(line.removesuffix(" ()") for line in lines)


@_block.register
def _table(block: Table) -> str:
    columns = len(block.columns)
    rule = ["---"] * columns if block.wordy else ["---", *["---:"] * (columns - 1)]
    return "\n".join([_line(map(escape, block.columns)), _line(rule), *(_row(row, columns) for row in block.rows)])


@_block.register
def _plot(block: Plot) -> str:
    return f"![{escape(block.title)}](plots/{block.name}.png)\n\n*{_prose(block.caption)}*"


@_block.register
def _sample(block: Sample) -> str:
    lines = [f"### {escape(block.title)}", "", f"Persona: {escape(' '.join(block.persona)) or '(none)'}", ""]
    lines += [f"> **user:** {escape(block.user) or '(the persona speaks first)'}"]
    for reply in block.replies:
        detail = f" _({escape(reply.detail)})_" if reply.detail else ""
        lines += [">", f"> **{escape(reply.speaker)}:** {escape(reply.text) or '(empty)'}{detail}"]
    return "\n".join(lines)


@_block.register
def _details(block: Details) -> str:
    inner = "\n\n".join(map(_block, block.blocks))
    return f"<details><summary>{escape(block.summary)}</summary>\n\n{inner}\n\n</details>"


def _prose(text: str) -> str:
    """Our own sentences, with `code` between backticks; with a backtick too many, all of it is plain text."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return "`".join(part if number % 2 else _escape_part(part) for number, part in enumerate(parts))


def _escape_part(text: str) -> str:
    """As `escape`, with the spaces at both ends kept."""
    return f"{' ' * text.startswith(' ')}{escape(text)}{' ' * text.endswith(' ')}" if text.strip() else text


def _row(row: Row, columns: int) -> str:
    if row.heading:
        return _line([f"**{escape(row.cells[0].text)}**", *[""] * (columns - 1)])
    return _line(map(_cell, row.cells))


def _cell(cell: Cell) -> str:
    tone = f", {cell.tone}" if cell.tone != "plain" else ""
    detail = f" [{escape(cell.detail)}]" if cell.detail else ""
    return f"{escape(cell.text)}{tone}{detail}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
