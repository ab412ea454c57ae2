"""SPT + LoRA: prompts over a model whose LoRA was trained before and merged, or both trained together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.baselines.lora import FOLDER as LORA
from sptune.baselines.lora import Lora, add_lora, merged_lora, with_lora
from sptune.baselines.method import Fit, FittedMethod
from sptune.baselines.own_backbone import own_base
from sptune.baselines.peft_files import save_peft
from sptune.baselines.spt import FOLDER as ADAPTER
from sptune.baselines.spt import train_spt
from sptune.baselines.tuning import RateGroup, TunedMethod, Tuning, trainable
from sptune.model.spt import SPTModel

if TYPE_CHECKING:
    from sptune.config import Recipe

FIRST = "first"  # the folder of the LoRA that is trained before the prompts


class SptOnLora(FittedMethod):
    """Kind `spt_lora`: LoRA first, for a share of the budget; then SPT over the merged, frozen model for the rest."""

    def _fit(self, fit: Fit) -> int:
        share = self.settings.lora_share
        first = Lora(self.settings, recipe=with_share(self.recipe, share), base=self.base, build=self.build)
        first.fit(
            fit.data,
            folder=fit.folder / FIRST,
            seed=fit.recipe.seed,
            learning_rate=self.settings.lora_lr or fit.learning_rate,
            progress=fit.progress,
            resume=fit.resume,
        )
        recipe = with_share(fit.recipe, 1 - share)
        model = self.build.make_model(recipe, base=merged_lora(self.base, fit.folder / FIRST / LORA))
        return first.trainable_parameters + train_spt(self.build, model, replace(fit, recipe=recipe))

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


def with_share(recipe: Recipe, share: float) -> Recipe:
    """`recipe` with a share of its training steps, at least one."""
    training = recipe.training
    steps = None if training.max_steps is None else max(1, round(training.max_steps * share))
    return recipe.model_copy(
        update={"training": training.model_copy(update={"epochs": training.epochs * share, "max_steps": steps})}
    )
