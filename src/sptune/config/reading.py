"""Recipes from files, with overrides; all mistakes are reported together. And back to YAML."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sptune.config.mistakes import find_mistakes, short
from sptune.config.recipe import PAPER_EXACT, Recipe
from sptune.config.sections import RANGE
from sptune.config.strict_yaml import read_yaml, write_yaml
from sptune.errors import RecipeError

COMMAND_LINE = "command line"  # where overrides are, in messages


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (or the name of a bundled recipe) and apply `key=value` overrides.

    Args:
        source: path of a YAML file, or a bundled recipe's name such as `quickstart`.
        overrides: dotted keys, e.g. `training.epochs=2`; values are YAML.

    Raises:
        RecipeError: the file cannot be read, or it has mistakes: all of them, each with the key, the value and the nearest known key.
    """
    path = find_recipe(source)
    try:
        raw = read_mapping(path)
        if "methods" in raw:
            raise RecipeError(
                f"{path}: is a comparison of methods, not a recipe to train; run it with `sptune compare {source}`"
            )
        return parse_recipe(raw, overrides, place=str(path))
    except RecipeError as error:
        if path.suffix in (".yaml", ".yml"):
            raise
        hint = f"if this is a file of dialogues, train on it with `sptune train quickstart data.path={path}`"
        raise RecipeError(f"{error}\n{hint}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The YAML mapping in a file.

    Raises:
        RecipeError: the file cannot be read, or holds something else.
    """
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise RecipeError(
            f"{path}: a recipe is a YAML mapping such as `training: {{epochs: 1}}`, this is a {type(raw).__name__}"
        )
    return raw


def parse_recipe(raw: dict[str, Any], overrides: Sequence[str] = (), *, place: str = "recipe") -> Recipe:
    """A checked recipe from nested dictionaries and overrides.

    Raises:
        RecipeError: with every mistake.
    """
    given, raw = raw, copy.deepcopy(raw)
    faults = [fault for override in overrides if (fault := apply_override(raw, override))]
    raw = _with_published(raw)
    if faults := [*faults, *find_mistakes(raw)]:
        refuse_mistakes(place, faults, own=find_mistakes(_with_published(given)) if overrides else None)
    return Recipe.model_validate(raw)


def refuse_mistakes(place: str, faults: Sequence[str], *, own: Sequence[str] | None = None) -> None:
    """Report all mistakes together.

    Args:
        place: where they are.
        faults: what is wrong.
        own: what is wrong at `place` without the overrides; other mistakes are those of the command line. None: all are of `place`.

    Raises:
        RecipeError: there is one.
    """
    known = faults if own is None else own
    places = {COMMAND_LINE: [one for one in faults if one not in known], place: [one for one in faults if one in known]}
    told = [
        "\n  ".join([f"{name}: {len(some)} mistake{'s' * (len(some) > 1)}", *some])
        for name, some in places.items()
        if some
    ]
    if told:
        raise RecipeError("\n".join(told))


def find_recipe(source: str | Path, *, comparison: bool = False) -> Path:
    """The file of a recipe given by path or by bundled name.

    Args:
        source: path or name.
        comparison: propose comparisons where it is neither, in place of recipes to train.

    Raises:
        RecipeError: neither; names the nearest bundled recipe.
    """
    path = Path(source)
    if path.is_file():
        return path
    bundled = bundled_recipes()
    if str(source) in bundled:
        return bundled[str(source)]
    names = sorted(name for name, file in bundled.items() if ("methods" in read_mapping(file)) == comparison)
    near = difflib.get_close_matches(str(source).removeprefix("recipes/").removesuffix(".yaml"), names, n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"bundled {'comparisons' if comparison else 'recipes'}: {', '.join(names)}"
    )
    raise RecipeError(f"{source}: no such recipe file; {hint}")


def bundled_recipes() -> dict[str, Path]:
    """Name and file of each recipe that comes with the package (or lies in the checkout's `recipes/`)."""
    for folder in (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes"):
        if folder.is_dir():
            return {
                file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))
            }
    return {}


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every key written out."""
    return write_yaml(recipe.model_dump(mode="json"))


def _with_published(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw`, with the defaults of the published code where it asks for them."""
    if raw.get("paper_exact") is not True:
        return raw
    raw = copy.deepcopy(raw)
    for key, value in PAPER_EXACT.items():
        set_key(raw, key, value, keep=True)
    return raw


def apply_override(raw: dict[str, Any], override: str) -> str | None:
    """Apply one `key=value`; the mistake where it is none."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        return f"{override!r}: an override has the form key=value, e.g. training.epochs=2"
    try:
        return set_key(raw, key, value if RANGE.fullmatch(value) else read_yaml(value))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        return f"{override!r}: the value is not valid YAML: {' '.join(str(error).split())}"


def set_key(raw: dict[str, Any], key: str, value: Any, *, keep: bool = False) -> str | None:
    """Set a dotted key; the mistake where a part of it holds no keys."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = raw.setdefault(parent, {})
        if inner is None:
            inner = raw[parent] = {}
        if not isinstance(inner, dict):
            return None if keep else f"{key}: {parent} is {short(inner)}, not a section with keys"
        raw = inner
    if not (keep and last in raw):
        raw[last] = value
    return None
