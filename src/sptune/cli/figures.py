"""How commands that measure show it: bars while they work, tables afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from sptune.evaluation.table import Table
    from sptune.evaluation.turns import Progress


@contextmanager
def progress_bars(unit: str = "turns") -> Iterator[Progress | None]:
    """A bar for each part on standard error, counting `unit`, with the time that is left; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(part: str, done: int, total: int) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part, total=total)
            bars.update(tasks[part], completed=done)

        yield show


def echo_tables(caption: str, tables: Sequence[Table]) -> None:
    """Print tables under a caption: drawn on a terminal, Markdown elsewhere."""
    from sptune.evaluation.table import markdown, print_tables

    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(caption, markup=False, highlight=False)
        print_tables(tables, console)
    else:
        typer.echo(f"{caption}\n\n{markdown(tables)}")
