"""The callbacks that a run's settings ask for, and the one that every run has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from sptune.errors import RecipeError
from sptune.training.tensorboard import TensorBoardFiles

if TYPE_CHECKING:
    from sptune.config import TrainingSection


def make_callbacks(settings: TrainingSection, *, folder: Path, validates: bool) -> list[TrainerCallback]:
    """Callbacks of a run.

    Args:
        settings: what is asked for.
        folder: the run folder.
        validates: whether there are validation dialogues.

    Raises:
        RecipeError: early stopping without validation, or a tracker that is not installed.
    """
    chosen: list[TrainerCallback] = [LastStep()]
    if patience := settings.early_stopping:
        if not validates:
            raise RecipeError("training.early_stopping: needs validation dialogues; give some, or leave it out")
        chosen.append(EarlyStoppingCallback(early_stopping_patience=patience))
    if "tensorboard" in settings.report_to:
        chosen.append(TensorBoardFiles(folder / "tensorboard"))
    return chosen


class LastStep(TrainerCallback):
    """Logs, validates and saves the last step too, whatever the recipe says, so that the best adapter may be the last."""

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Ask for all three after the last step."""
        if state.global_step >= state.max_steps:
            control.should_log = control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"
