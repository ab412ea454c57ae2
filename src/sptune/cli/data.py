"""`sptune data`: look at dialogue files, check them, convert them, and make them from a server's records."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sptune.cli import data_records
from sptune.data.check import CheckReport, check
from sptune.data.dialogue import Dialogue
from sptune.data.lines import Progress
from sptune.data.load import ReadResult, load_dialogues, read, select
from sptune.data.save import save_dialogues
from sptune.errors import DataError

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Look at dialogue files, check them, convert them, and make them from a server's records.",
)

_BAR_FROM = 8_000_000  # bytes: smaller files are read before a bar could be seen

Source = Annotated[
    str, typer.Argument(metavar="FILE", help="A dialogue file, `sample[:train|validation|test]`, or `hub:owner/name`.")
]
Format = Annotated[
    str, typer.Option(help="auto, convai2, messages, sharegpt, personachat, xpersona, msc, synthetic or hub.")
]
Persona = Annotated[
    str, typer.Option(help="Whose persona to keep: self (who responds), other (the user), both or none.")
]


@app.command(
    epilog="Examples: `sptune data show sample`, `sptune data show talks.txt --split 701:750`, "
    "`sptune data show talks.jsonl --limit 5 --seed 1`"
)
def show(
    file: Source,
    format: Format = "auto",
    persona: Persona = "self",
    split: Annotated[str | None, typer.Option(help="Dialogues A:B, counted from 1, both included.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many dialogues to show.")] = 3,
    seed: Annotated[int | None, typer.Option(help="Show a random sample, drawn with this seed.")] = None,
) -> None:
    """Show dialogues as they will be read."""
    with progress_bar(file) as progress:
        result = read(file, format=format, persona=persona, progress=progress)
    talks = select(result.dialogues, split, file)
    if not talks:
        raise DataError(f"{file}: no dialogue without errors; `sptune data check {file}` lists them")
    chosen = talks[:limit] if seed is None else random.Random(seed).sample(talks, min(limit, len(talks)))
    _print_dialogues(chosen)
    if result.problems:
        typer.echo(f"{len(result.problems)} problems; `sptune data check {file}` lists them", err=True)


@app.command(
    name="check",
    epilog="Examples: `sptune data check talks.txt`, `sptune data check talks.txt --recipe recipes/quickstart.yaml`, "
    "`sptune data check talks.jsonl --json`",
)
def check_file(
    file: Source,
    format: Format = "auto",
    persona: Persona = "self",
    recipe: Annotated[
        str | None, typer.Option(help="A recipe: also count tokens and the turns that its max_length would truncate.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Report every problem with its line, counts and lengths; exit code 4 if there are errors."""
    with progress_bar(file) as progress:
        result = read(file, format=format, persona=persona, progress=progress)
    report = check(result)
    truncation = _truncation(recipe, result) if recipe is not None else None
    typer.echo(_as_json(file, result, report, truncation) if as_json else _as_text(file, result, report, truncation))
    if result.errors:
        raise typer.Exit(4)


@app.command(
    epilog="Examples: `sptune data convert talks.txt --to messages --output talks.jsonl`, "
    "`sptune data convert talks.jsonl --to convai2 --output talks.txt --force`"
)
def convert(
    file: Source,
    to: Annotated[str, typer.Option(help="messages, convai2 or sharegpt.")],
    output: Annotated[Path, typer.Option(help="The file to write.")],
    format: Format = "auto",
    persona: Persona = "both",
    on_error: Annotated[str, typer.Option(help="stop, or skip to leave out dialogues with errors.")] = "stop",
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")] = False,
) -> None:
    """Write the dialogues in another format. Keeps both personas unless told otherwise."""
    with progress_bar(file) as progress:
        talks = load_dialogues(file, format=format, persona=persona, on_error=on_error, progress=progress)
    save_dialogues(talks, output, format=to, force=force)
    typer.echo(f"{output}: {len(talks)} dialogues written as {to}")


app.command("from-records", epilog=data_records.FROM_RECORDS_EPILOG)(data_records.from_records)
app.command("delete-user", epilog=data_records.DELETE_USER_EPILOG)(data_records.delete_user)


@contextmanager
def progress_bar(file: str) -> Iterator[Progress | None]:
    """A bar on standard error while a large `file` is read; None where it would not be seen."""
    size = os.path.getsize(file) if os.path.isfile(file) else 0
    if size < _BAR_FROM or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_dialogues(talks: list[Dialogue]) -> None:
    """In panels on a terminal, as plain lines elsewhere."""
    if not sys.stdout.isatty():
        typer.echo("\n\n".join("\n".join(f"{who}: {text}" for who, text in _rows(talk)) for talk in talks))
        return
    from rich.console import Console

    console = Console()
    for talk in talks:
        console.print(_panel(talk))


def _rows(talk: Dialogue) -> Iterator[tuple[str, str]]:
    """Who says what, line by line."""
    yield "dialogue", talk.id
    yield from (("persona", sentence) for sentence in talk.persona)
    yield from (("partner", sentence) for sentence in talk.partner_persona)
    for turn in talk.turns:
        yield "user", turn.user or "(silent)"
        yield "response" if turn.learn else "history", turn.response or ""
        if turn.candidates:
            yield "candidates", str(len(turn.candidates))


def _panel(talk: Dialogue) -> RenderableType:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    styles = {
        "persona": "cyan",
        "partner": "magenta",
        "user": "bold",
        "response": "green",
        "history": "dim",
        "candidates": "dim",
    }
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    for who, said in list(_rows(talk))[1:]:
        grid.add_row(who, Text(said, style=styles[who]))
    return Panel(grid, title=Text(f"dialogue {talk.id}"), title_align="left")


def _truncation(recipe: str, result: ReadResult) -> Any:
    """Token counts under the recipe; None where there is no dialogue to count."""
    from sptune.build import truncation_report

    return truncation_report(recipe, list(result.dialogues)) if result.dialogues else None


def _as_json(file: str, result: ReadResult, report: CheckReport, truncation: Any) -> str:
    found = {"file": file, **dataclasses.asdict(report)}
    found["problems"] = [dataclasses.asdict(problem) for problem in result.problems]
    found["truncation"] = None if truncation is None else dataclasses.asdict(truncation)
    return json.dumps(found, indent=2)


def _as_text(file: str, result: ReadResult, report: CheckReport, truncation: Any) -> str:
    lines = [f"{problem} [{problem.severity}: {problem.code}]" for problem in result.problems]
    lines.append(
        f"{file}: {report.format}, {report.dialogues} dialogues, {report.turns} turns "
        f"({report.turns_with_candidates} with candidates), {report.personas} different personas"
        + (f", {report.history_turns} responses that are only history" if report.history_turns else "")
    )
    lengths = {
        "persona sentences": report.persona_sentences,
        "turns a dialogue": report.turns_per_dialogue,
        "words a user message": report.user_words,
        "words a response": report.response_words,
    }
    if report.turns_with_candidates:
        lengths["candidates a turn"] = report.candidates
    if truncation is not None:
        lengths |= {"tokens a context": truncation.context_tokens, "tokens a response": truncation.response_tokens}
    lines += _table(lengths)
    if truncation is not None:
        lines.append(
            f"{truncation.truncated_turns} of {truncation.turns} turns lose their oldest history at the recipe's "
            f"max_length; {truncation.too_long} do not fit even without history"
        )
    lines.append(_verdict(report))
    return "\n".join(lines)


def _table(lengths: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = ("min", "mean", "p50", "p95", "max")
    head = " " * 22 + "".join(f"{name:>9}" for name in names)
    return [head] + [f"{what:<22}" + "".join(f"{row[name]:>9.4g}" for name in names) for what, row in lengths.items()]


def _verdict(report: CheckReport) -> str:
    if not report.codes:
        return "no problems"
    counts = ", ".join(f"{code} {count}" for code, count in report.codes.items())
    return f"{report.errors} errors ({report.skipped} dialogues left out), {report.warnings} warnings: {counts}"
