"""One trial of a learning rate: a method with a setting trains shortly, and is measured on the validation dialogues."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from sptune.baselines.method import TrainingData
from sptune.config import Recipe, TuningSettings
from sptune.evaluation.run import evaluate
from sptune.experiments.cells import Cell
from sptune.experiments.folders import RUN, trial_folder
from sptune.experiments.material import Material
from sptune.experiments.state import StateFile
from sptune.experiments.training_progress import TrainingProgress
from sptune.experiments.trials import record_trial


def trial_recipe(cell: Cell, tuning: TuningSettings) -> Recipe:
    """The recipe of a trial: less training, and the trials' own seed."""
    training = cell.recipe.training.model_copy(update={"epochs": tuning.epochs, "max_steps": None})
    return cell.recipe.model_copy(update={"training": training, "seed": tuning.seed})


def run_trial(comparison: Path, cell: Cell, material: Material, *, rate: float, tuning: TuningSettings) -> None:
    """Train with one rate, and add a line to `tuning.jsonl`. A trial that was killed goes on where it was.

    Args:
        comparison: folder of the comparison.
        cell: any of the method and setting.
        material: its method has the recipe of `trial_recipe`.
        rate: learning rate.
        tuning: how long.

    Raises:
        SptError: training or validation failed.
    """
    folder = trial_folder(comparison, cell.label, rate)
    state = StateFile(folder)
    data = TrainingData(material.train[: tuning.dialogues], material.validation)
    with state.timed("train_seconds"):
        material.method.fit(
            data,
            folder=folder / RUN,
            seed=tuning.seed,
            learning_rate=rate,
            progress=TrainingProgress(state.show),
            resume=True,
        )
    with state.timed("evaluate_seconds"):
        settings = replace(material.evaluation("top1"), parts=("likelihood",))
        model = material.method.load(folder / RUN)
        found = evaluate(model, material.validation, settings=settings, progress=state.show).result.likelihood
    perplexity = getattr(found, cell.recipe.training.metric)
    record_trial(comparison, cell, rate=rate, tuning=tuning, perplexity=perplexity)
    shutil.rmtree(folder / RUN, ignore_errors=True)
