"""Comparisons from files, with overrides; and the recipe of each method. All mistakes are reported together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sptune.config.compare import ComparisonSettings, MethodSettings, flat_keys
from sptune.config.mistakes import find_mistakes
from sptune.config.reading import (
    apply_override,
    find_recipe,
    load_recipe,
    parse_recipe,
    read_mapping,
    refuse_mistakes,
    set_key,
)
from sptune.config.recipe import Recipe
from sptune.config.strict_yaml import write_yaml
from sptune.errors import RecipeError

# What stays the shared recipe's where a method names a recipe of its own: the same data, template and evaluation, ...
SHARED_KEYS = ("name", "output", "seed", "paper_exact", "model", "data", "template", "evaluation")
BUDGET_KEYS = ("epochs", "max_steps")  # ... and as much training


def load_comparison(source: str | Path, overrides: Sequence[str] = ()) -> ComparisonSettings:
    """Read a comparison recipe (or the name of a bundled one) and apply `key=value` overrides.

    Args:
        source: path of a YAML file, or a bundled comparison's name such as `compare/quick`.
        overrides: dotted keys of the comparison (`seeds=[0]`, `methods.lora.rank=4`) or of the shared recipe (`data.path=my.txt`).

    Raises:
        RecipeError: the file cannot be read, is no comparison, or has mistakes: all of them.
    """
    path = find_recipe(source, comparison=True)
    raw = read_mapping(path)
    if "methods" not in raw:
        raise RecipeError(
            f"{path}: is no comparison: it has no `methods`; to train this recipe: `sptune train {source}`"
        )
    return parse_comparison(raw, overrides, place=str(path))


def parse_comparison(
    raw: dict[str, Any], overrides: Sequence[str] = (), *, place: str = "comparison"
) -> ComparisonSettings:
    """A checked comparison from nested dictionaries and overrides. Its recipes are checked by `method_recipe`.

    Raises:
        RecipeError: with every mistake.
    """
    raw = copy.deepcopy(raw)
    nesting = _nest_changes(raw)
    own = [*nesting, *find_mistakes(raw, ComparisonSettings)] if overrides else None
    faults = [fault for override in overrides if (fault := apply_override(raw, _of_recipe(override)))]
    refuse_mistakes(place, [*nesting, *faults, *find_mistakes(raw, ComparisonSettings)], own=own)
    return ComparisonSettings.model_validate(raw)


def dump_comparison(settings: ComparisonSettings) -> str:
    """The settings as YAML, every key written out."""
    return write_yaml(settings.model_dump(mode="json"))


def method_recipe(
    settings: ComparisonSettings, method: MethodSettings, *, changes: Mapping[str, Any], seed: int
) -> Recipe:
    """The recipe that a method is trained with.

    The shared recipe; over it, where the method names a recipe, that one's prompts, retriever, losses and training (but for the
    budget, `training.epochs` and `training.max_steps`); then the changes of the comparison, of the method, and of the grid.

    Args:
        settings: the comparison.
        method: one of its methods.
        changes: dotted key of the recipe -> value, of the grid.
        seed: of the training.

    Raises:
        RecipeError: with every mistake.
    """
    raw = read_mapping(find_recipe(settings.recipe))
    shared = load_recipe(settings.recipe)
    if method.recipe is not None:
        own = load_recipe(method.recipe).model_dump(mode="json")
        raw |= {name: section for name, section in own.items() if name not in SHARED_KEYS}
        raw["training"] |= {key: getattr(shared.training, key) for key in BUDGET_KEYS}
    wanted = {**settings.set, **method.set, **changes, "seed": seed}
    faults = [fault for key, value in wanted.items() if (fault := set_key(raw, key, value))]
    refuse_mistakes("recipe", faults)
    return parse_recipe(raw)


def _nest_changes(raw: dict[str, Any]) -> list[str]:
    """Write dotted keys of `set` and `grid` as sections, so that overrides find them; what cannot be written so."""
    methods = raw["methods"] if isinstance(raw.get("methods"), dict) else {}
    holders = {"": raw, **{f"methods.{name}.": method for name, method in methods.items() if isinstance(method, dict)}}
    faults = []
    for place, holder in holders.items():
        for name in ("set", "grid"):
            if isinstance(holder.get(name), dict):
                holder[name], found = _nested(holder[name])
                faults += [f"{place}{name}.{fault}" for fault in found]
    return faults


def _nested(changes: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    nested: dict[str, Any] = {}
    try:
        pairs = flat_keys(changes).items()
    except ValueError as error:
        return nested, [str(error)]
    return nested, [fault for key, value in pairs if (fault := set_key(nested, key, value))]


def _of_recipe(override: str) -> str:
    """An override of the shared recipe is one of the comparison's `set`."""
    top = override.partition("=")[0].split(".")[0]
    shared = top in Recipe.model_fields and top not in ComparisonSettings.model_fields
    return f"set.{override}" if shared else override
