"""LoRA (Hu et al. 2021, arXiv 2106.09685), by PEFT: low-rank changes of the model's linear layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptune.baselines.method import Fit
from sptune.baselines.own_backbone import own_base
from sptune.baselines.peft_files import load_peft, make_peft, peft_package, save_peft
from sptune.baselines.tuning import RateGroup, TunedMethod, Tuning, trainable
from sptune.errors import RecipeError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.seeding import seeded

if TYPE_CHECKING:
    from sptune.config.compare import MethodSettings
    from sptune.model.spt import SPTModel

FOLDER = "lora"


class Lora(TunedMethod):
    """Kind `lora`. Loaded, it computes the low-rank changes beside the base's weights, so its numbers are those of training."""

    default_rate = 1e-3

    def _tuning(self, fit: Fit) -> Tuning:
        own = own_base(self.base, FOLDER, recompute=fit.recipe.model.gradient_checkpointing)
        peft = add_lora(own, self.settings, seed=fit.recipe.seed)
        model = self.build.make_bare_model(fit.recipe, base=own)
        group = RateGroup(trainable(own.backbone), fit.recipe.training.prompt_lr)
        return Tuning(model, (group,), lambda folder: save_peft(peft, folder / FOLDER))

    def _load(self, folder: Path) -> SPTModel:
        return self.build.make_bare_model(self.recipe, base=with_lora(self.base, folder / FOLDER))


def add_lora(own: LoadedBase, settings: MethodSettings, *, seed: int) -> Any:
    """Put new, trainable LoRA layers into a copy of a base model. They change nothing before the first step.

    Args:
        own: the copy.
        settings: rank, alpha, dropout, targets.
        seed: of the layers' initial values.

    Returns:
        PEFT's `PeftModel` around the copy's model.

    Raises:
        RecipeError: `targets` names no layer, or the word embeddings or the output layer.
    """
    model = own.backbone.model
    config = peft_package().LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=[*settings.targets] if settings.targets else "all-linear",
    )
    try:
        with seeded(seed):
            peft = make_peft(own.backbone, config)
    except ValueError as error:
        raise RecipeError(f"targets: {error}") from error
    for ends in (model.get_input_embeddings(), model.get_output_embeddings()):
        if trainable(ends):
            raise RecipeError(
                "targets: word embeddings and output layer stay frozen; name other layers, or leave it out"
            )
    return peft


def with_lora(base: LoadedBase, folder: Path) -> LoadedBase:
    """A copy of `base` with trained LoRA layers beside its weights.

    Raises:
        AdapterError: the folder is missing, damaged or of another model.
    """
    own = own_base(base, FOLDER)
    load_peft(own.backbone, folder)
    return own


def merged_lora(base: LoadedBase, folder: Path) -> LoadedBase:
    """A copy of `base` with trained LoRA merged into its weights, frozen.

    In bfloat16 the sum is rounded to the base's 8 bits of precision: log-probabilities differ from those of `with_lora` by
    some hundredths of a nat per token. In float32 they are the same to rounding.

    Raises:
        AdapterError: the folder is missing, damaged or of another model.
    """
    own = own_base(base, FOLDER)
    peft = load_peft(own.backbone, folder)
    merged = peft.merge_and_unload(safe_merge=True)
    return LoadedBase(Backbone(merged, base=own.backbone.base, revision=own.backbone.revision), base.tokenizer)
