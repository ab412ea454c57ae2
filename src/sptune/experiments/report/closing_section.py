"""How to make the comparison again, and what its folder lacks."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePath
from typing import Any

from sptune.experiments.plan import SETTINGS_NAME
from sptune.experiments.report.folder import Comparison
from sptune.report.document import Block, Bullets, Commands, Details, Paragraph, Section, Table, table_row


def reproduction_section(comparison: Comparison) -> Section:
    """Commands, data, versions, machine and settings."""
    folder = shown_folder(comparison)
    commands = (
        f"sptune compare {shlex.quote(str(folder / SETTINGS_NAME))}\nsptune compare report {shlex.quote(str(folder))}"
    )
    hashes = {result.data.sha256 for system in comparison.systems for result in system.results if result.data}
    bases = {
        result.model.embedding_sha256 for system in comparison.systems for result in system.results if result.model
    }
    rows = [table_row("SHA-256 of the test dialogues", value) for value in sorted(hashes)]
    rows += [table_row("SHA-256 of the base's embedding table", value) for value in sorted(bases)]
    rows += [table_row("versions", text) for text in _versions(comparison)]
    rows += [table_row("machine", text) for text in _machines(comparison)]
    blocks: list[Block] = [
        Paragraph(
            "The first command makes every cell that is missing, the second writes this report again, without any model."
        ),
        Commands(commands),
        *([Table(("", ""), tuple(rows), wordy=True)] if rows else []),
        Paragraph("The figures of all tables and plots are in `tables/`, as CSV and as JSON."),
    ]
    if comparison.settings_text:
        blocks.append(Details(f"The settings ({SETTINGS_NAME})", (Commands(comparison.settings_text.rstrip()),)))
    return Section("How to make it again", tuple(blocks))


def missing_section(comparison: Comparison) -> Section | None:
    """What this report cannot show, and why."""
    return Section("What is missing here", (Bullets(comparison.notes),)) if comparison.notes else None


def shown_folder(comparison: Comparison) -> PurePath:
    """The folder as a reader can use it: as the settings name it where that is relative, else its name alone."""
    named = PurePath(comparison.settings.folder if comparison.settings else comparison.folder.resolve().name)
    return PurePath(named.name) if named.is_absolute() else named


def _versions(comparison: Comparison) -> list[str]:
    """Those of the cells, once for each set of versions."""
    found = [cell.record.versions for cell in comparison.cells if cell.record.versions]
    return list(dict.fromkeys(", ".join(f"{name} {number}" for name, number in sorted(one.items())) for one in found))


def _machines(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(_in_words(cell.record.machine) for cell in comparison.cells if cell.record.machine))


def _in_words(machine: Any) -> str:
    return machine if isinstance(machine, str) else json.dumps(machine, sort_keys=True)
