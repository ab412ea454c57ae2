"""A comparison as cells: one method with one setting and one seed each. Every recipe is built here, so that a bad value is found at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from sptune.config import ComparisonSettings, MethodSettings, Recipe, method_recipe
from sptune.config.compare import ONE_PROMPT, TOP1
from sptune.config.mistakes import find_mistakes
from sptune.config.reading import refuse_mistakes
from sptune.errors import RecipeError

MAX_LABEL = 120  # a file system takes names of 255 bytes
WORKED_IN = {"recipe", "set", "grid", "seeds", "decodings"}  # keys of a method that are in a cell's other attributes


@dataclass(frozen=True, slots=True)
class Cell:
    """One training and its evaluations.

    Attributes:
        method: its name in the comparison.
        label: the method's name, and the setting where there is a grid: `k@prompts.count=8`. The name of its folder.
        setting: key -> value, of the grid.
        seed: of the training.
        settings: the method, with what the grid changes of it; without what is in the other attributes.
        recipe: all that the method is trained with: shared recipe, changes, grid and seed.
        evaluations: decoding -> parts of the evaluation that run the model for it; top-1 is the first.
    """

    method: str
    label: str
    setting: dict[str, Any]
    seed: int
    settings: MethodSettings
    recipe: Recipe
    evaluations: dict[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        """As it is called in messages."""
        return f"{self.label} seed {self.seed}"

    @property
    def selects(self) -> bool:
        """Whether there are prompts to choose among."""
        return has_choice(self.settings, self.recipe)

    @property
    def tunes(self) -> bool:
        """Whether its learning rate is found by trials."""
        return len(self.settings.rates) > 1


def expand(settings: ComparisonSettings, *, place: str = "comparison") -> list[Cell]:
    """The cells of a comparison: all methods and settings with the first seed, then with the next.

    Args:
        settings: the comparison.
        place: where it was read from, for messages.

    Raises:
        RecipeError: with every mistake in any cell's recipe.
    """
    shared, faults = _recipe(settings, MethodSettings(kind="zero_shot"), {}, seed=0)
    refuse_mistakes(place, faults)
    cells: list[Cell] = []
    for name, method in settings.methods.items():
        for setting in settings_of(method):
            made, wrong = _cells(settings, name, setting)
            cells += made
            faults += wrong
    faults += _missing_parts(settings, shared, cells) if shared else []
    faults += _same_labels(cells)
    refuse_mistakes(place, list(dict.fromkeys(faults)))
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    return sorted(cells, key=lambda cell: seeds.index(cell.seed))


def settings_of(method: MethodSettings) -> Iterator[dict[str, Any]]:
    """Every combination of the values of a method's grid."""
    for values in product(*method.grid.values()):
        yield dict(zip(method.grid, values, strict=True))


def label_of(method: str, setting: Mapping[str, Any]) -> str:
    """A name for a method with a setting that can be a file's.

    >>> label_of("k", {"prompts.count": 8, "losses.update": "all"})
    'k@prompts.count=8,losses.update=all'
    """
    if not setting:
        return method
    text = ",".join(f"{key}={_text(value)}" for key, value in setting.items())
    safe = re.sub(r"[^\w.,=+-]+", "-", text, flags=re.ASCII)
    if len(safe) > MAX_LABEL or safe != text:
        safe = f"{safe[:MAX_LABEL]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return f"{method}@{safe}"


def has_choice(method: MethodSettings, recipe: Recipe) -> bool:
    """Whether a method has several prompts."""
    return method.kind in ("spt", "spt_lora") and recipe.prompts.count > 1


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def _cells(settings: ComparisonSettings, name: str, setting: dict[str, Any]) -> tuple[list[Cell], list[str]]:
    """The cells of a method with one setting, one a seed; or what is wrong."""
    method = settings.methods[name]
    own = {key: value for key, value in setting.items() if key in method.own_keys}
    raw = method.model_dump() | {"grid": {}} | own
    wrong = find_mistakes(raw, MethodSettings)
    if wrong:
        return [], [f"methods.{name}.grid.{fault}" for fault in wrong]
    single = MethodSettings.model_validate(raw)
    changes = {key: value for key, value in setting.items() if key not in own}
    cells = []
    for seed in settings.seeds_of(method):
        recipe, wrong = _recipe(settings, single, changes, seed=seed)
        if recipe is None:
            return [], [f"methods.{name}: {fault}" for fault in wrong]
        evaluations, wrong = _evaluations(settings, single, recipe)
        if wrong:
            return [], wrong
        settled = MethodSettings.model_validate(single.model_dump(exclude=WORKED_IN))
        cells.append(Cell(name, label_of(name, setting), setting, seed, settled, recipe, evaluations))
    return cells, []


def _recipe(
    settings: ComparisonSettings, method: MethodSettings, changes: Mapping[str, Any], *, seed: int
) -> tuple[Recipe | None, list[str]]:
    """The recipe of a method, or every mistake in it."""
    try:
        return method_recipe(settings, method, changes=changes, seed=seed), []
    except RecipeError as error:
        first, *listed = str(error).split("\n")
        return None, [line.strip() for line in listed] or [first]


def _evaluations(
    settings: ComparisonSettings, method: MethodSettings, recipe: Recipe
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """What is measured under each decoding; and decodings that the recipe does not know."""
    every, choice = settings.decodings_of(method), has_choice(method, recipe)
    names = [name for name in every if choice or name in ONE_PROMPT]
    wrong = []
    for name in every:
        if name not in (TOP1, *settings.controls):
            raw = recipe.model_dump(mode="json")
            raw["evaluation"]["decoding"] = name
            wrong += [f"decodings: {name}: {fault}" for fault in find_mistakes(raw)]
    found = {}
    for name in names:
        replies = settings.generation is None or name in settings.generation
        asked = {"likelihood": name == TOP1, "ranking": name in settings.ranking, "generation": replies}
        found[name] = tuple(part for part, wanted in asked.items() if wanted)
    return found, wrong


def _missing_parts(settings: ComparisonSettings, shared: Recipe, cells: list[Cell]) -> Iterator[str]:
    """Dialogues that the comparison needs and the shared recipe does not name."""
    if not shared.evaluates:
        yield "recipe: names no test dialogues; set evaluation.split or evaluation.path"
    needs = {
        "rates": any(cell.tunes for cell in cells),
        "controls": "best-single" in settings.controls and any(cell.selects for cell in cells),
        "probe": settings.probe == "validation" and any(cell.selects for cell in cells),
    }
    for key, needed in needs.items():
        if needed and not shared.validates:
            yield f"{key}: needs validation dialogues; set data.validation or data.validation_path"


def _same_labels(cells: list[Cell]) -> Iterator[str]:
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            yield f"methods.{cell.method}.grid: two settings have the name {cell.label}; is a value there twice?"
        seen.add(cell.name)
