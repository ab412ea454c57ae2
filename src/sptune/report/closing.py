"""The end of the report: the course of training, how to go on, how to make the run again, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from sptune import __version__
from sptune.report.document import (
    Block,
    Bullets,
    Commands,
    Details,
    Paragraph,
    Row,
    Section,
    Table,
    table_row,
)
from sptune.report.run_folder import ADAPTER_NAME, EVALUATION_NAME, RECIPE_NAME, RunFolder

_USES = (
    "`chat` talks to the adapter, and its /why shows the scores of the prompts; `evaluate` measures it on other "
    f"dialogues; what is written to {EVALUATION_NAME}/NAME joins the table when `report` writes this report again."
)
_UNFINISHED_USES = "`train --resume` goes on from the newest checkpoint; `report` writes this report again."


def training_section(plots: Sequence[Block]) -> Section | None:
    """How the losses went."""
    return Section("Training", tuple(plots)) if plots else None


def next_section(run: RunFolder) -> Section:
    """Commands for what one may want to do with the run."""
    place = shown_folder(run)
    adapter = shlex.quote(str(place / ADAPTER_NAME))
    uses = _USES if run.finished else _UNFINISHED_USES
    if not run.finished:
        lines = [f"sptune train {shlex.quote(str(place / RECIPE_NAME))} --resume"]
    else:
        lines = [
            f'sptune chat {adapter} --persona-text "I keep bees." --persona-text "I live by the sea."',
            _evaluate(run, adapter),
        ]
        if run.prompts != 1:
            lines.append(f"sptune export {adapter} --prompt 0 --output {shlex.quote(str(place / 'peft-0'))}")
    lines.append(f"sptune report {shlex.quote(str(place))}")
    return Section(
        "How to go on", (Paragraph(f"Run these where the folder {place} is. {uses}"), Commands("\n".join(lines)))
    )


def reproduction_section(run: RunFolder) -> Section:
    """Seed, versions, hashes, command and recipe."""
    rows: list[Row] = []
    if run.recipe:
        rows.append(table_row("seed", f"{run.recipe.seed}"))
    if run.main and run.main.result.data:
        rows.append(table_row("SHA-256 of the test dialogues", run.main.result.data.sha256))
    if run.main and run.main.result.model:
        model = run.main.result.model
        rows.append(table_row("SHA-256 of the base's embedding table", model.embedding_sha256))
        rows += [table_row("SHA-256 of the adapter", model.adapter_sha256)] if model.adapter_sha256 else []
    if run.info:
        rows.append(table_row("versions", ", ".join(f"{name} {number}" for name, number in run.info.versions.items())))
        command = run.info.command
    else:
        written = {one.result.sptune_version for one in run.evaluations.values()}
        rows.append(table_row("versions", f"sptune {', '.join(sorted(written)) or __version__}"))
        place = shown_folder(run)
        again = shlex.quote(f"output={place.with_name(f'{place.name}-again')}")
        command = f"sptune train {shlex.quote(str(place / RECIPE_NAME))} {again}"
    blocks: list[Block] = [Table(("", ""), tuple(rows), wordy=True)]
    if run.recipe_text:
        blocks += [
            Commands(command),
            Details(f"The whole recipe ({RECIPE_NAME})", (Commands(run.recipe_text.rstrip()),)),
        ]
    return Section("How to make it again", tuple(blocks))


def missing_section(run: RunFolder) -> Section | None:
    """What this report cannot show, and why."""
    return Section("What is missing here", (Bullets(run.notes),)) if run.notes else None


def shown_folder(run: RunFolder) -> PurePath:
    """The run folder as a reader can use it: as the recipe names it where that is relative, else its name alone."""
    named = PurePath(run.recipe.folder) if run.recipe else PurePath(run.folder.resolve().name)
    return PurePath(named.name) if named.is_absolute() else named


def _evaluate(run: RunFolder, adapter: str) -> str:
    data = run.main.result.data if run.main else None
    path = shlex.quote(data.path) if data and data.path else "FILE"
    split = f" --split {data.split}" if data and data.split else ""
    place = shlex.quote(str(shown_folder(run) / EVALUATION_NAME / "NAME"))
    return f"sptune evaluate {adapter} --data {path}{split} --output {place}"
