"""SPT + LoRA: prompts over a model whose LoRA was trained before and merged, or both trained together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.baselines.examples import shuffled
from sptune.baselines.lora import FOLDER as LORA
from sptune.baselines.lora import Lora, add_lora, merged_lora, with_lora
from sptune.baselines.method import FIRST, Fit, FittedMethod, TrainingData
from sptune.baselines.own_backbone import own_base
from sptune.baselines.peft_files import save_peft
from sptune.baselines.spt import FOLDER as ADAPTER
from sptune.baselines.spt import train_spt
from sptune.baselines.tuning import RateGroup, TunedMethod, Tuning, trainable
from sptune.model.spt import SPTModel

if TYPE_CHECKING:
    from sptune.config import Recipe


class SptOnLora(FittedMethod):
    """Kind `spt_lora`: LoRA first, on a share of the dialogues; then SPT over the merged, frozen model on the others.

    So together they learn from as much as every other method does, and from each dialogue.
    """

    def _fit(self, fit: Fit) -> int:
        share = self.settings.lora_share
        before, after = divided(fit.data, share, seed=fit.recipe.seed)
        first = Lora(self.settings, recipe=with_share(self.recipe, share), base=self.base, build=self.build)
        first.fit(
            before,
            folder=fit.folder / FIRST,
            seed=fit.recipe.seed,
            learning_rate=self.settings.lora_lr or fit.learning_rate,
            progress=fit.progress,
            resume=fit.resume,
        )
        recipe = with_share(fit.recipe, 1 - share)
        model = self.build.make_model(recipe, base=merged_lora(self.base, fit.folder / FIRST / LORA))
        return first.trainable_parameters + train_spt(self.build, model, replace(fit, data=after, recipe=recipe))

    def _load(self, folder: Path) -> SPTModel:
        return SPTModel.from_pretrained(folder / ADAPTER, base=merged_lora(self.base, folder / FIRST / LORA))


class SptWithLora(TunedMethod):
    """Kind `spt_lora` with `joint`: prompts, retriever and LoRA in one optimizer, under the recipe's losses."""

    def _tuning(self, fit: Fit) -> Tuning:
        recipe, training = fit.recipe, fit.recipe.training
        own = own_base(self.base, LORA)
        model = self.build.make_model(recipe, base=own)
        peft = add_lora(own, self.settings, seed=recipe.seed)
        groups = (
            RateGroup(trainable(model.prompts), training.prompt_lr),
            RateGroup(trainable(model.retriever), training.retriever_lr),
            RateGroup(trainable(own.backbone), self.settings.lora_lr or fit.learning_rate or Lora.default_rate),
        )

        def keep(folder: Path) -> None:
            save_peft(peft, folder / LORA)
            model.save_pretrained(folder / ADAPTER)

        trained = tuple(group for group in groups if group.parameters)
        return Tuning(model, trained, keep, selects=True)

    def _load(self, folder: Path) -> SPTModel:
        return SPTModel.from_pretrained(folder / ADAPTER, base=with_lora(self.base, folder / LORA))


def divided(data: TrainingData, share: float, *, seed: int) -> tuple[TrainingData, TrainingData]:
    """Two parts of the training dialogues, at least one in each where there are two; validation dialogues are in both."""
    order = list(shuffled(len(data.train), seed))
    first = min(max(1, round(len(order) * share)), max(1, len(order) - 1))
    parts = order[:first], order[first:] or order
    one, other = (replace(data, train=[data.train[n] for n in sorted(part)]) for part in parts)
    return one, other


def with_share(recipe: Recipe, share: float) -> Recipe:
    """`recipe` with a share of its training steps, at least one, where they are limited."""
    training = recipe.training
    steps = None if training.max_steps is None else max(1, round(training.max_steps * share))
    return recipe.model_copy(update={"training": training.model_copy(update={"max_steps": steps})})
