"""The learning rates that a comparison has tried, and the one that each method with each setting is trained with."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from sptune.baselines.method import RECIPE_NAME
from sptune.config import TuningSettings, load_recipe
from sptune.errors import TrainingError
from sptune.experiments.cells import Cell
from sptune.experiments.folders import RUN, TUNING_NAME, cell_folder, trial_folder
from sptune.experiments.state import read_state
from sptune.experiments.tuning_log import read_trials
from sptune.files import storage_errors

Perplexities = dict[float, float | None]
"""Learning rate -> validation perplexity; None where the trial failed. Of equal rates the last counts."""


def tried(comparison: Path, cell: Cell) -> Perplexities:
    """The trials of a cell's method with its setting, out of `tuning.jsonl`."""
    own = (cell.method, cell.setting)
    return {
        trial.learning_rate: trial.perplexity
        for trial in read_trials(comparison, [])
        if (trial.method, trial.setting) == own
    }


def choose_rate(comparison: Path, cell: Cell) -> float | None:
    """The learning rate of a cell: that of its training where it has begun, or of another seed's, the best that was tried, the only one,
    or None where it names none.

    Raises:
        TrainingError: no rate could be trained with.
    """
    if not cell.settings.rates:
        return None
    begun = begun_rate(cell_folder(comparison, cell.label, cell.seed))
    if begun is not None:
        return begun
    if not cell.tunes:
        return cell.settings.rates[0]
    known = {rate: value for rate, value in tried(comparison, cell).items() if value is not None}
    if not known:
        listed = ", ".join(f"{rate:g}" for rate in cell.settings.rates)
        raise TrainingError(
            f"{cell.label}: none of the learning rates {listed} could be trained with; see {comparison / TUNING_NAME}, "
            "and try again with --retry-failed"
        )
    return min(known, key=known.__getitem__)


def begun_rate(folder: Path) -> float | None:
    """The learning rate that the cell in `folder` is trained with, else that of another seed; None where no training has begun."""
    seeds = (folder, *sorted(folder.parent.glob("seed-*")))
    return next((rate for one in seeds if (rate := kept_rate(one)) is not None), None)


def kept_rate(folder: Path) -> float | None:
    """The learning rate that the cell in `folder` is trained with, out of its run's recipe; None where its training has not begun."""
    path = folder / RUN / RECIPE_NAME
    return load_recipe(path).training.prompt_lr if path.is_file() else None


def record_trial(
    comparison: Path,
    cell: Cell,
    *,
    rate: float,
    tuning: TuningSettings,
    perplexity: float | None = None,
    error: str | None = None,
) -> None:
    """Add a line to `tuning.jsonl`; without a perplexity the trial failed."""
    state = read_state(trial_folder(comparison, cell.label, rate))
    line = {
        "method": cell.method,
        "setting": cell.setting,
        "learning_rate": rate,
        "perplexity": perplexity if perplexity is not None and math.isfinite(perplexity) else None,
        "seconds": round(state.train_seconds + state.evaluate_seconds, 1),
        "seed": tuning.seed,
        "dialogues": tuning.dialogues,
        "epochs": tuning.epochs,
        "error": error,
    }
    _append(comparison / TUNING_NAME, json.dumps(line, ensure_ascii=False))


def _append(path: Path, line: str) -> None:
    """Add a line in one write, so that processes do not mix theirs; a line that was cut short before is ended."""
    with storage_errors(path), path.open("ab+") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            line = f"\n{line}"
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())
