"""What there is to do in a comparison: cells, and before them the trials of their learning rates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sptune.config import TuningSettings
from sptune.config.compare import TOP1
from sptune.experiments.cells import Cell
from sptune.experiments.claim import owner
from sptune.experiments.folders import CELL_NAME, EVALUATION, cell_folder, trial_folder
from sptune.experiments.plan import Plan
from sptune.experiments.record import change_status, read_record, write_record
from sptune.experiments.trials import begun_rate, record_trial, tried

Status = Literal["done", "failed", "running", "waiting"]
Key = tuple[str, int, float | None]
"""Label, seed and, of a trial, learning rate."""


@dataclass(frozen=True, slots=True)
class Task:
    """A cell, or a trial of one of its learning rates.

    Attributes:
        comparison: folder of the comparison.
        cell: the cell; of a trial, the first of its method and setting.
        rate: the learning rate of a trial; None for a cell.
    """

    comparison: Path
    cell: Cell
    rate: float | None = None

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return self.cell.label, self.cell.seed, self.rate

    @property
    def name(self) -> str:
        """As it is called in messages."""
        return self.cell.name if self.rate is None else f"{self.cell.label} rate {self.rate:g}"

    @property
    def folder(self) -> Path:
        """Where it writes, and is claimed."""
        if self.rate is None:
            return cell_folder(self.comparison, self.cell.label, self.cell.seed)
        return trial_folder(self.comparison, self.cell.label, self.rate)

    @property
    def arguments(self) -> list[str]:
        """How `sptune compare task` is told to run it."""
        rate = [] if self.rate is None else ["--rate", repr(self.rate)]
        return [str(self.comparison), self.cell.label, str(self.cell.seed), *rate]

    def status(self) -> Status:
        """How it stands, whoever runs it."""
        if owner(self.folder):
            return "running"
        return self.outcome() or "waiting"

    def outcome(self) -> Literal["done", "failed"] | None:
        """How it ended; None where it did not, or where its cell has more to do now."""
        if self.rate is None:
            record = read_record(self.folder)
            if record is None or (record.status == "done" and not record.covers(self.cell)):
                return None
            return record.status
        trials = tried(self.comparison, self.cell)
        if self.rate not in trials:
            return None
        return "failed" if trials[self.rate] is None else "done"

    def perplexity(self) -> float | None:
        """Of a trial on the validation dialogues, of a cell on the test dialogues, under the chosen prompts; None where it is not known."""
        if self.rate is not None:
            return tried(self.comparison, self.cell).get(self.rate)
        try:
            text = (self.folder / EVALUATION / TOP1 / "evaluation.json").read_text(encoding="utf-8")
            return float(json.loads(text)["likelihood"]["perplexity"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin_again(self) -> None:
        """Forget that it failed, so that it is not passed over when this process is killed; a trial's last line counts anyway."""
        record = read_record(self.folder) if self.rate is None else None
        if record is None or record.status != "failed":
            return
        if record.evaluations:
            change_status(self.folder, status="done", error=None)
        else:
            (self.folder / CELL_NAME).unlink()

    def fail(self, error: str, *, tuning: TuningSettings) -> None:
        """Record that it failed.

        Args:
            error: why, in a few lines.
            tuning: of the comparison.
        """
        if self.rate is not None:
            record_trial(self.comparison, self.cell, rate=self.rate, tuning=tuning, error=error)
        elif read_record(self.folder):  # a further decoding failed; what was measured before stays
            change_status(self.folder, status="failed", error=error)
        else:
            write_record(self.cell, self.folder, status="failed", error=error)


def list_tasks(comparison: Path, plan: Plan) -> list[Task]:
    """All tasks of a comparison; the trials of a method and setting come before the first of its cells."""
    tasks: list[Task] = []
    seen: set[str] = set()
    for cell in plan.cells:
        if cell.label not in seen and cell.tunes:
            tasks += [Task(comparison, cell, rate) for rate in cell.settings.rates]
        seen.add(cell.label)
        tasks.append(Task(comparison, cell))
    return tasks


def is_ready(task: Task) -> bool:
    """Whether a task may begin: a cell waits until every rate was tried."""
    if task.rate is not None or not task.cell.tunes:
        return True
    return tried(task.comparison, task.cell).keys() >= set(task.cell.settings.rates)


def to_retry(tasks: Sequence[Task]) -> list[Task]:
    """Failed tasks that may be tried again: not the trials of a method that began to train cells by the rate that was best then."""
    cells = [task for task in tasks if task.rate is None]
    settled = {task.cell.label for task in cells if task.outcome() == "done" or begun_rate(task.folder)}
    return [
        task for task in tasks if task.outcome() == "failed" and (task.rate is None or task.cell.label not in settled)
    ]
