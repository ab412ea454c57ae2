"""transformers' Trainer with this project's checkpoints in place of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from sptune.files import write_atomically
from sptune.training import checkpoint
from sptune.training.not_finite import is_finite, kept_state, weights_not_finite

if TYPE_CHECKING:
    from sptune.model.spt import SPTModel
    from sptune.training.step_sums import StepSums


class CheckpointedTrainer(Trainer):
    """Writes, removes and loads the checkpoints of `sptune.training.checkpoint`.

    A subclass sets, before it calls `Trainer`'s constructor:

    Attributes:
        spt: the model.
        folder: the run folder.
        keep_checkpoints: how many of the newest are kept, beside the best.
        data: a digest of what is trained on.
        sums: what the next line of the log will be of.
    """

    spt: SPTModel
    folder: Path
    keep_checkpoints: int
    data: str
    sums: StepSums

    optimizer: Any  # transformers' own, which are not typed
    control: Any
    state: Any

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def kept(self) -> str:
        """Where the last good state is, in words."""
        return kept_state(self.checkpoints)

    def finished(self, newest: Path) -> TrainOutput:
        """What training that had ended gives again, without a further step."""
        self.state = TrainerState.load_from_json(str(newest / checkpoint.TRAINER_STATE))
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        checkpoint.load_weights(newest if best is None else self._of(best), self.spt)
        return TrainOutput(self.state.global_step, math.nan, {})

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """In place of transformers' many files (some of them pickles)."""
        if not is_finite(self.spt):
            raise weights_not_finite(self.state.global_step, kept=self.kept())
        self.write_checkpoint()
        checkpoint.remove_old(self.checkpoints, keep=self.keep_checkpoints, best=self.state.best_global_step)

    def write_checkpoint(self) -> None:
        """Write the state in one atomic step."""
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(self._of(self.state.best_global_step))
        text = checkpoint.state_text(self.state, (*self.callback_handler.callbacks, self.control))
        write_atomically(
            self._of(self.state.global_step),
            lambda partial: checkpoint.write_checkpoint(
                partial,
                model=self.spt,
                optimizer=self.optimizer,
                scheduler=self.lr_scheduler,
                trainer_state=text,
                data=self.data,
                sums=self.sums.state(),
            ),
        )

    def _move_model_to_device(self, model: torch.nn.Module, device: torch.device) -> None:
        """Nothing to move: the model is where the recipe put it."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        checkpoint.load_weights(Path(resume_from_checkpoint), self.spt)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is not None:
            checkpoint.load_optimizer(Path(checkpoint_folder), optimizer=self.optimizer, scheduler=self.lr_scheduler)
            self.sums.restore(checkpoint.load_sums(Path(checkpoint_folder)))

    def _load_best_model(self) -> None:
        checkpoint.load_weights(self._of(self.state.best_global_step), self.spt)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load: no step draws from a global generator (see `checkpoint.write_checkpoint`)."""

    def _of(self, step: int) -> Path:
        return self.checkpoints / f"{checkpoint.PREFIX}{step}"
