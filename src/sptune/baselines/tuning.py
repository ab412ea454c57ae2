"""Training of what is not SPT: the same loop, data, budget and checkpoints, with other weights to learn."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sptune.baselines.method import Fit, FittedMethod
from sptune.config import LossesSection
from sptune.model.seeding import seeded
from sptune.model.spt import SPTModel
from sptune.training import checkpoint
from sptune.training.trainer import SPTTrainer

# With one prompt, L_LLM alone is the mean negative log-likelihood of the response tokens, stop tokens included.
MEAN_NLL = LossesSection.model_validate(
    {"selection": {"weight": 0}, "contrastive": {"weight": 0}, "fusion": {"weight": 0}}
)


@dataclass(frozen=True, slots=True)
class RateGroup:
    """Weights that share a learning rate.

    Attributes:
        parameters: what is trained.
        rate: its learning rate, before the schedule.
    """

    parameters: tuple[nn.Parameter, ...]
    rate: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a method trains, and how it is kept.

    Attributes:
        model: the model in training.
        groups: its weights and their learning rates.
        keep: writes into the run's folder what `load` needs, once training is done.
        selects: K prompts and a retriever are trained too, as the recipe says; else the mean negative log-likelihood is minimised.
    """

    model: SPTModel
    groups: tuple[RateGroup, ...]
    keep: Callable[[Path], None]
    selects: bool = False


class TuningTrainer(SPTTrainer):
    """`SPTTrainer` for the weights of a `Tuning`.

    Dropout, where a method has it, draws from (seed, step), so that a resumed run draws the same.

    Args:
        tuning: model and weights.
        fit: data, folder and recipe.
    """

    def __init__(self, tuning: Tuning, fit: Fit) -> None:
        self.tuning = tuning
        recipe, selects = fit.recipe, tuning.selects
        super().__init__(
            tuning.model,
            fit.data.train,
            validation=fit.data.validation,
            folder=fit.folder,
            training=recipe.training if selects else recipe.training.model_copy(update={"shared": 0.0}),
            losses=recipe.losses if selects else MEAN_NLL,
            centre=selects and recipe.retriever.centre,
            clusters=selects and recipe.retriever.keys == "clusters",
            seed=recipe.seed,
            callbacks=[fit.progress] if fit.progress else [],
        )
        if fit.progress:
            fit.progress.trainer = self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One for each group of the method."""
        return [{"params": [*group.parameters], "lr": group.rate} for group in self.tuning.groups]

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        """A step forward and backward, with its own draw of dropout."""
        before = len(self._batches) if self._step == self.state.global_step else 0  # batches of this step
        number = self.state.global_step * self.settings.gradient_accumulation + before
        with seeded(self.args.seed * 1_000_003 + number):
            loss: Tensor = super().training_step(*arguments, **named)
        return loss

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Validation figures, without dropout."""
        self.spt.eval()
        return super().evaluate(*arguments, **named)


class TunedMethod(FittedMethod):
    """A method that trains weights of its own."""

    @abstractmethod
    def _tuning(self, fit: Fit) -> Tuning:
        """What is trained, as it is before the first step."""

    def _fit(self, fit: Fit) -> int:
        tuning = self._tuning(fit)
        trained = tuning.model.trainable_parameters
        TuningTrainer(tuning, fit).train(resume=fit.resume)
        # what the trainer leaves is the adapter alone; `keep` writes what is of use to others
        shutil.rmtree(fit.folder / checkpoint.ADAPTER)
        tuning.keep(fit.folder)
        return trained


def trainable(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """The weights of a module that are trained."""
    return tuple(p for p in module.parameters() if p.requires_grad and p.numel())
