"""`sptune doctor`: what this machine has, and how to get what is missing."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sptune.errors import ModelError, exit_code

if TYPE_CHECKING:
    from sptune.doctor import Finding

EPILOG = """Examples:

sptune doctor

sptune doctor --quick --json

sptune doctor --online
"""

_MARKS = {"good": ("✓", "+"), "note": ("!", "!"), "missing": ("-", "-"), "broken": ("✗", "x")}
_COLOURS = {"good": "green", "note": "yellow", "missing": "cyan", "broken": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Do not measure speed.")] = False,
    online: Annotated[
        bool, typer.Option("--online", help="Also ask whether the Hugging Face hub can be reached.")
    ] = False,
) -> None:
    """Say what this machine has: software, devices, speed, models, optional parts, and how to get what is missing.

    Changes nothing, and stays off the network unless told --online. Exit code 5 if torch or transformers is broken.
    """
    from sptune.doctor import diagnose, is_broken

    findings = diagnose(quick=quick, online=online)
    broken = is_broken(findings)
    if as_json:
        record = {"ok": not broken, "findings": [dataclasses.asdict(finding) for finding in findings]}
        typer.echo(json.dumps(record, indent=2))
    else:
        _print_table(findings)
    if broken:
        raise typer.Exit(exit_code(ModelError()))


doctor.epilog = EPILOG  # type: ignore[attr-defined]


def _print_table(findings: tuple[Finding, ...]) -> None:
    """Mark, part and text, and below it what to do; in colour on a terminal, as plain lines elsewhere."""
    if not sys.stdout.isatty():
        width = max(len(finding.part) for finding in findings)
        for finding in findings:
            typer.echo(f"{_mark(finding)} {finding.part:<{width}} {finding.text}")
            if finding.fix:
                typer.echo(f"  {'':<{width}} {finding.fix}")
        typer.echo(_summary(findings))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for finding in findings:
        colour = _COLOURS[finding.state]
        text = Text(finding.text)
        if finding.fix:
            text.append(f"\n{finding.fix}", style=colour)
        table.add_row(Text(_mark(finding), style=colour), Text(finding.part, style="bold"), text)
    console = Console()
    console.print(table)
    console.print(_summary(findings), style="bold")


def _mark(finding: Finding) -> str:
    """The mark of its state, or a letter where standard output cannot show it."""
    mark, letter = _MARKS[finding.state]
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return letter
    return mark


def _summary(findings: tuple[Finding, ...]) -> str:
    broken = [finding.part for finding in findings if finding.state == "broken"]
    missing = sum(finding.state == "missing" for finding in findings)
    if broken:
        return f"sptune cannot work here: {', '.join(broken)} broken"
    return f"sptune can work here; {missing} optional part{'' if missing == 1 else 's'} missing"
