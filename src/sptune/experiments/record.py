"""`cell.json`: what a cell was, what it cost, and whether it came to its end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sptune.experiments.cells import Cell
from sptune.experiments.folders import CELL_NAME, RUN
from sptune.experiments.state import read_state
from sptune.files import write_json
from sptune.training.metrics_log import read_metrics

Status = Literal["done", "failed"]


def write_record(
    cell: Cell,
    folder: Path,
    *,
    status: Status,
    rate: float | None = None,
    trainable: int | None = None,
    error: str | None = None,
) -> None:
    """Write `cell.json` of a cell that is done, or failed before it ever was, with times and memory of the cell's `state.json`.

    Args:
        cell: what was done.
        folder: of the cell.
        status: how it ended.
        rate: learning rate; None where the method's own was used.
        trainable: how many numbers were trained.
        error: why it failed.
    """
    from sptune.report.run_info import describe_run

    state = read_state(folder)
    here = describe_run("", started=datetime.now(UTC), seconds=0)
    record = {
        "method": cell.method,
        "kind": cell.settings.kind,
        "label": cell.label,
        "setting": cell.setting,
        "seed": cell.seed,
        "learning_rate": rate,
        "status": status,
        "error": error,
        "trainable_parameters": trainable,
        "train_seconds": state.train_seconds,
        "evaluate_seconds": state.evaluate_seconds,
        "peak_memory_bytes": state.peak_bytes,
        "train_peak_memory_bytes": state.train_peak_bytes,
        "train_tokens": train_tokens(folder),
        "starts": state.starts,
        "evaluations": {name: list(parts) for name, parts in cell.evaluations.items()} if status == "done" else {},
        "versions": here.versions,
        "machine": here.machine,
    }
    write_json(folder / CELL_NAME, record)


@dataclass(frozen=True, slots=True)
class CellRecord:
    """What of `cell.json` decides what is still to be done.

    Attributes:
        status: how it ended.
        error: why it failed.
        seconds: of training and evaluation.
        learning_rate: None where the method's own was used.
        evaluations: decoding -> parts that were done; of a cell that failed, those it had before.
    """

    status: Status
    error: str | None
    seconds: float
    learning_rate: float | None
    evaluations: dict[str, list[str]]

    def missing(self, cell: Cell) -> list[str]:
        """The decodings of which `cell` asks for more than was done."""
        return [
            name
            for name, parts in cell.evaluations.items()
            if name not in self.evaluations or not set(parts) <= set(self.evaluations[name])
        ]

    def covers(self, cell: Cell) -> bool:
        """Whether all that `cell` asks for is done."""
        return self.status == "done" and not self.missing(cell)


def read_record(folder: Path) -> CellRecord | None:
    """The record of a cell that ended; None where it did not, or the file is damaged."""
    try:
        raw: dict[str, Any] = json.loads((folder / CELL_NAME).read_text(encoding="utf-8"))
        seconds = float(raw["train_seconds"]) + float(raw["evaluate_seconds"])
        return CellRecord(raw["status"], raw["error"], seconds, raw["learning_rate"], raw["evaluations"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def change_status(folder: Path, *, status: Status, error: str | None) -> None:
    """Say of a cell that was done before how its further evaluations ended; everything else in `cell.json` stays."""
    raw = json.loads((folder / CELL_NAME).read_text(encoding="utf-8"))
    write_json(folder / CELL_NAME, {**raw, "status": status, "error": error})


def train_tokens(folder: Path) -> int:
    """Tokens trained on, each time that one was read, out of every `metrics.jsonl` of a run; 0 where nothing was trained."""
    records = [record for path in (folder / RUN).rglob("metrics.jsonl") for record in read_metrics(path)]
    return int(sum(record.get("tokens") or 0 for record in records if record.get("kind") == "train"))
