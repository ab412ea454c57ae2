"""The training loop: a thin transformers.Trainer over packed batches, with checkpoints that resume exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from sptune.config import LossesSection, TrainingSection
from sptune.data.batch import TokenBatch
from sptune.data.encoder import TokenSequence
from sptune.errors import ModelError, StorageError, TrainingError
from sptune.files import storage_errors
from sptune.training import checkpoint
from sptune.training.arguments import training_arguments
from sptune.training.callbacks import make_callbacks
from sptune.training.checkpointed import CheckpointedTrainer
from sptune.training.interrupt import Interrupt
from sptune.training.loader import PackedLoader, data_digest, encode_data
from sptune.training.metrics_log import MetricsLog
from sptune.training.monitor import Monitor, prompt_figures
from sptune.training.not_finite import is_finite, step_not_finite
from sptune.training.objective import Objective
from sptune.training.preparation import prepare_retriever
from sptune.training.shared import SharedPrompts
from sptune.training.similarity import make_similarity
from sptune.training.start_losses import start_losses
from sptune.training.step_sums import StepSums
from sptune.training.validation import validate

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.model.spt import SPTModel


class SPTTrainer(CheckpointedTrainer):
    """Trains the prompts and the retriever of an `SPTModel`.

    Args:
        model: the model; its base stays as it is.
        train: dialogues to learn from.
        validation: dialogues that choose the best adapter; without them the last one is kept.
        folder: the run folder: `checkpoints/`, `metrics.jsonl`, `tensorboard/` and, when training ends, `adapter/`.
        training: steps, rates, batches.
        losses: weights and variants of the losses.
        centre: estimate the retriever's mean context vector on `train` (kept where a checkpoint has one).
        clusters: start the retriever's keys as k-means centres of the contexts of `train`.
        seed: of the order of batches, of the teacher's noise, of the clusters and of what parts prompts that were shared.
        callbacks: transformers callbacks, e.g. a progress bar.

    Raises:
        DataError: no dialogue has a response, one does not fit the base model's window, or there are fewer turns than clusters.
        RecipeError: early stopping without validation, a tracker that is not installed, or contexts that cannot be whitened or clustered as asked.
        StorageError: the folder cannot be made.

    >>> import sptune                                                                        # doctest: +SKIP
    >>> trainer = sptune.SPTTrainer(                                                         # doctest: +SKIP
    ...     sptune.SPTModel.from_base(), sptune.load_dialogues("sample:train"), folder="runs/first")
    >>> trainer.train()                                                                      # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - what a run is made of
        self,
        model: SPTModel,
        train: Sequence[Dialogue],
        *,
        folder: str | Path,
        validation: Sequence[Dialogue] = (),
        training: TrainingSection | None = None,
        losses: LossesSection | None = None,
        centre: bool = True,
        clusters: bool = False,
        seed: int = 0,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.spt = model
        self._prompts = model.prompts  # what is trained; once training has ended the model has them plain
        self.folder = Path(folder)
        self.settings = training or TrainingSection()
        self.keep_checkpoints = self.settings.keep_checkpoints
        losses = losses or LossesSection()
        c = losses.contrastive
        similarity = make_similarity(c.similarity, backbone=model.backbone, encoder=c.encoder)
        self.objective = Objective(losses, similarity=similarity, seed=seed)
        self.validation = list(validation)
        self.sequences = encode_data(model, train, self.validation)
        self.data = data_digest(self.sequences, self.validation)
        self.metrics = MetricsLog(self.folder / "metrics.jsonl")
        self.monitor = Monitor(
            centred=centre or model.retriever.reading.rank is not None,  # whitening always centres
            clusters=clusters,
            responsibility=losses.update == "responsibility" or losses.objective != "mean",
        )
        self.warnings: list[str] = []
        self.sums = StepSums()
        self._step = -1
        self._batches: list[TokenBatch] = []
        prepare_retriever(
            model,
            self.sequences,
            budget=self.settings.batch_tokens,
            centre=centre,
            clusters=clusters,
            alike=self.settings.kept_starts,
            seed=seed,
        )
        self._shared = SharedPrompts(
            model.prompts,
            share=self.settings.shared,
            noise=self.settings.fork_noise,
            seed=seed,
            starts=self.settings.starts,
            keep=self.settings.keep_starts,
            losses=lambda: start_losses(model, self.get_train_dataloader(), starts=self.settings.starts),
            parted=self.monitor.forget,
        )
        arguments = training_arguments(
            self.settings, self.checkpoints, seed=seed, device=model.backbone.device, validates=bool(validation)
        )
        with storage_errors(self.folder):
            super().__init__(
                model=model, args=arguments, train_dataset=self.sequences, eval_dataset=self.validation or None
            )
        self.remove_callback(PrinterCallback)
        self._interrupt = Interrupt(self.write_checkpoint)
        chosen = make_callbacks(self.settings, folder=self.folder, validates=bool(validation))
        for callback in (self._interrupt, self._shared, *chosen, *callbacks):
            self.add_callback(callback)

    @property
    def progress(self) -> float:
        """Share of training done, 0..1."""
        share: float = self.state.global_step / max(1, self.state.max_steps)
        return share

    def train(self, resume: bool = False, **_: Any) -> Any:
        """Train, and write the best (or last) adapter to `folder/adapter`.

        Ctrl-C stops it before the next step and keeps the state; a second Ctrl-C stops it at once.

        Args:
            resume: go on from the newest complete checkpoint; bit for bit, on CPU, what an uninterrupted run gives.

        Returns:
            transformers' `TrainOutput`; its loss is NaN where a run that had ended was resumed.

        Raises:
            TrainingError: a loss, gradient or weight is not finite; the last good state is kept. Or the run to resume was begun on other data.
            StorageError: a checkpoint cannot be written, or the folder holds those of another run.
            KeyboardInterrupt: after Ctrl-C.
        """
        checkpoint.remove_partial(self.checkpoints)
        checkpoint.remove_partial(self.folder)
        newest = checkpoint.newest_checkpoint(self.checkpoints)
        if newest and not resume:
            raise StorageError(
                f"{self.folder}: holds checkpoints of an earlier run; resume it, or choose another folder"
            )
        if newest:
            checkpoint.check_data(newest, self.data)
        self.metrics.rewind(checkpoint.step_of(newest) if newest else -1)
        self._step = -1
        self.sums.clear()
        self.spt.prompts = self._prompts
        with self._interrupt:
            if newest and checkpoint.is_last(newest):
                result = self.finished(newest)
            else:
                result = super().train(resume_from_checkpoint=str(newest) if newest else None)
            self.spt.prompts = self.spt.prompts.plain()
            self.spt.save_pretrained(self.folder / "adapter")
        if self._interrupt.requested:
            raise KeyboardInterrupt
        return result

    def get_train_dataloader(self) -> DataLoader[TokenSequence]:
        """Packed batches by token budget; the same number in each epoch, in an order that depends on (seed, epoch)."""
        return PackedLoader(self.sequences, model=self.spt, budget=self.settings.batch_tokens, seed=self.args.seed)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `parameter_groups`."""
        if self.optimizer is None:
            kind, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.spt)
            decay = self.settings.weight_decay
            groups = [{**group, "weight_decay": decay} for group in self.parameter_groups() if group["params"]]
            self.optimizer = kind(groups, **kwargs)
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One for the prompts and one for the retriever, each with its learning rate."""
        return [
            {"params": list(self.spt.prompts.parameters()), "lr": self.settings.prompt_lr},
            {"params": list(self.spt.retriever.parameters()), "lr": self.settings.retriever_lr},
        ]

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, TokenBatch], *_: Any, **__: Any) -> Tensor:
        """The total loss of one packed batch; its parts go to the log and the monitor."""
        batch = inputs["batch"].to(self.spt.backbone.device)
        if self._step != self.state.global_step:
            self._step, self._batches = self.state.global_step, []
        number = self._step * self.settings.gradient_accumulation + len(self._batches)
        self._batches.append(batch)
        if self._shared.together(self.state):
            output = model(batch, first=self._shared.starts)
            parts = self.objective.shared(output, batch)
        else:
            output = model(batch, fuse_logits=self.objective.fuses_logits)
            parts = self.objective(output, batch, progress=self.progress, step=number)
        if not math.isfinite(float(parts.total.detach())):
            self._stop_not_finite("the loss", [batch])
        self.monitor.add(output.scores, parts.nll)
        self.sums.add(parts, batch)
        return parts.total.to(self.args.device)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validation figures, named `eval_...` for transformers; logged, and kept in `metrics.jsonl`."""
        try:
            figures = validate(self.spt, self.validation)
        except ModelError as error:
            raise TrainingError(f"validation after step {self.state.global_step}: {error}; {self.kept()}") from error
        record = {"kind": "validation", "step": self.state.global_step, "epoch": self.state.epoch, **figures}
        record |= {"parted": self._shared.have_parted(self.state)}
        self.metrics.append({**record, "prompt_similarity": prompt_figures(self.spt).similarity})
        numbers = {f"eval_{name}": value for name, value in figures.items() if isinstance(value, float)}
        self.log(dict(numbers))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, numbers)
        return numbers

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Prompts that are still one cannot be the best, nor end training early: patience begins once they have parted."""
        return self._shared.have_parted(self.state) and super()._determine_best_metric(metrics, trial)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add loss parts and selection figures to what transformers logs in training."""
        if "loss" in logs and self.sums.batches:
            logs |= self._take_training_figures(logs["learning_rate"])
        super().log(logs, start_time)

    def _take_training_figures(self, rate: float) -> dict[str, float]:
        figures = self.monitor.figures()
        record = self.sums.take() | {
            "usage_entropy": figures.entropy,
            "agreement": figures.agreement,
            "regret": figures.regret,
            "specialisation": figures.specialisation,
            "margin": figures.margin,
            "prompt_norm_ratio": prompt_figures(self.spt).norm_ratio,
        }
        self.warnings = self.monitor.warnings(figures, progress=self._shared.progress_apart(self.state))
        step = {"kind": "train", "step": self.state.global_step, "epoch": self.state.epoch}
        step["learning_rate"] = rate
        self.metrics.append({**step, **record, "usage": figures.usage, "warnings": self.warnings})
        return record

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(float(norm)):
            self._stop_not_finite("the gradient", self._batches)
        return norm

    def _stop_not_finite(self, what: str, batches: Sequence[TokenBatch]) -> None:
        if is_finite(self.spt):
            self.write_checkpoint()
        raise step_not_finite(what, self.state.global_step + 1, batches, kept=self.kept())
