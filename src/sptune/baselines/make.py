"""The method that settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sptune.baselines.full import FullFineTuning
from sptune.baselines.lora import Lora
from sptune.baselines.p_tuning import PTuning
from sptune.baselines.prefix import PrefixTuning
from sptune.baselines.prompting import Prompting
from sptune.baselines.spt import Spt
from sptune.baselines.spt_lora import SptOnLora, SptWithLora

if TYPE_CHECKING:
    from sptune.baselines.method import Build, FittedMethod, Method
    from sptune.config import Recipe
    from sptune.config.compare import Kind, MethodSettings
    from sptune.model.load import LoadedBase

METHODS: dict[Kind, type[FittedMethod]] = {
    "zero_shot": Prompting,
    "few_shot": Prompting,
    "rag": Prompting,
    "full": FullFineTuning,
    "lora": Lora,
    "prefix": PrefixTuning,
    "p_tuning": PTuning,
    "spt": Spt,
    "spt_lora": SptOnLora,
}


def make_method(settings: MethodSettings, *, recipe: Recipe, base: LoadedBase, build: Build) -> Method:
    """A compared method.

    Args:
        settings: kind, and what the kind has of its own.
        recipe: model, template and training budget, with the method's own recipe, `set` and grid values worked in.
        base: the recipe's base model; it is never changed, and may serve many methods.
        build: the module `sptune.build`.
    """
    kind = SptWithLora if settings.kind == "spt_lora" and settings.joint else METHODS[settings.kind]
    return kind(settings, recipe=recipe, base=base, build=build)
