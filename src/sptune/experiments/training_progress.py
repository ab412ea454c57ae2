"""The progress of a cell's training: lines for its log, and steps for its state."""

from __future__ import annotations

from typing import Any

from sptune.evaluation.turns import Progress
from sptune.training.progress import ProgressBar


class TrainingProgress(ProgressBar):
    """Shows training as `ProgressBar` does, and counts its steps.

    Args:
        count: called after every step.
    """

    def __init__(self, count: Progress) -> None:
        super().__init__()
        self._count = count

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a step."""
        super().on_step_end(args, state, control)
        self._count("training", state.global_step, state.max_steps)
