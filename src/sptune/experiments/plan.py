"""What a comparison's folder was begun with. It may grow by methods, seeds, grid values and decodings; what results come from may not change."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sptune.config import (
    KEPT_IN_ADAPTER,
    ComparisonSettings,
    EvaluationSection,
    MethodSettings,
    TuningSettings,
    dump_comparison,
    parse_recipe,
)
from sptune.config.compare import RERANK
from sptune.errors import RecipeError, StorageError, UsageError
from sptune.experiments.cells import Cell, expand
from sptune.experiments.claim import owner
from sptune.experiments.folders import EVALUATION, cell_folder
from sptune.files import write_json, write_text

SETTINGS_NAME, PLAN_NAME = "compare.yaml", "plan.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides what the results of a comparison are.

    Attributes:
        tuning: how learning rates are chosen.
        probe: turns that the offline probe learns from.
        cells: in the order in which they are run.
        data: data settings -> digest of the dialogues that they gave; empty where they were not read.
    """

    tuning: TuningSettings
    probe: str
    cells: tuple[Cell, ...]
    data: Mapping[str, str] = field(default_factory=dict)

    def cell(self, label: str, seed: int) -> Cell:
        """The cell of that label and seed.

        Raises:
            UsageError: there is none.
        """
        for cell in self.cells:
            if (cell.label, cell.seed) == (label, seed):
                return cell
        raise UsageError(f"{PLAN_NAME}: has no cell {label} with seed {seed}")


def make_plan(settings: ComparisonSettings, *, place: str = "comparison") -> Plan:
    """The plan of a comparison.

    Args:
        settings: the comparison.
        place: where it was read from, for messages.

    Raises:
        RecipeError: with every mistake in any cell's recipe.
    """
    return Plan(settings.tuning, settings.probe, tuple(expand(settings, place=place)))


def begin(folder: Path, settings: ComparisonSettings, plan: Plan) -> None:
    """Write what `folder` is begun with; where it is in use, check that this goes on with the same comparison.

    Args:
        folder: of the comparison; made where missing.
        settings: of the comparison.
        plan: of the same.

    Raises:
        UsageError: the folder was begun with other settings; names every difference.
        StorageError: the folder holds something else, or cannot be written.
    """
    check(folder, plan)
    write_json(folder / PLAN_NAME, _to_json(plan))
    write_text(folder / SETTINGS_NAME, dump_comparison(settings))


def check(folder: Path, plan: Plan) -> None:
    """Refuse a folder that holds another comparison, or something else.

    Raises:
        UsageError: begun with other settings; names every difference.
        StorageError: holds something else.
    """
    if not (folder / PLAN_NAME).is_file():
        if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
            raise StorageError(f"{folder}: is in use, and holds no comparison; choose another with output=FOLDER")
        return
    before = read_plan(folder)
    changed = list(dict.fromkeys(differences(before, plan, unused=_unused(folder, before))))
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise UsageError(
            f"{folder}: was begun with other settings ({SETTINGS_NAME}):\n{listed}\n"
            "Methods, seeds, grid values and decodings may be added; for anything else choose another folder with output=FOLDER"
        )


def read_plan(folder: Path) -> Plan:
    """The plan of a comparison's folder.

    Raises:
        UsageError: there is none, it is damaged, or it was written by a version of sptune that this one cannot read.
    """
    try:
        raw = json.loads((folder / PLAN_NAME).read_text(encoding="utf-8"))
        tuning = TuningSettings.model_validate(raw["tuning"])
        cells = tuple(_read_cell(entry) for entry in raw["cells"])
        return Plan(tuning, str(raw["probe"]), cells, raw.get("data", {}))  # an older one has no digests
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: holds no comparison; give the folder that `sptune compare` wrote") from error
    except (OSError, ValueError, KeyError, TypeError, RecipeError, ValidationError) as error:
        raise UsageError(f"{folder / PLAN_NAME}: cannot be read by this version of sptune ({error})") from error


def differences(before: Plan, now: Plan, *, unused: Collection[str] = ()) -> Iterator[str]:
    """What a folder's plan and a new one disagree on, in words; what is only in the new one is no disagreement.

    Args:
        before: the folder's.
        now: the new one.
        unused: keys of `evaluation` on which nothing that is there depends.
    """
    shared = [{"tuning": plan.tuning.model_dump(exclude={"unequal"}), "probe": plan.probe} for plan in (before, now)]
    yield from _changed("", *shared)
    for key in before.data.keys() & now.data.keys():
        if before.data[key] != now.data[key]:
            yield f"the dialogues of {key} are no longer those that it was begun with"
    cells = {(cell.label, cell.seed): cell for cell in now.cells}
    for old in before.cells:
        new = cells.get((old.label, old.seed))
        if new is None:
            yield f"{old.name} was there, is gone (to run a part, use --only or --seeds)"
            continue
        for name, parts in old.evaluations.items():
            for part in set(parts) - set(new.evaluations.get(name, ())):
                yield f"{old.label}: the {part} of decoding {name} was there, is gone"
        yield from _changed(f"{old.label}: ", *(_content(cell, unused) for cell in (old, new)))


def _unused(folder: Path, plan: Plan) -> set[str]:
    """Keys of `evaluation` on which nothing in a comparison's folder depends: no cell has such an evaluation, nor is at work on one."""
    if not _is_evaluated(folder, plan.cells, "*"):
        return EvaluationSection.model_fields.keys() - set(KEPT_IN_ADAPTER)
    reranking = [cell for cell in plan.cells if RERANK in cell.evaluations]
    return set() if _is_evaluated(folder, reranking, RERANK) else {"rerank"}


def _is_evaluated(folder: Path, cells: Iterable[Cell], decoding: str) -> bool:
    """Whether one of `cells` was evaluated under `decoding` (`*`: any), or a process is at work on it."""
    places = [cell_folder(folder, cell.label, cell.seed) for cell in cells]
    return any(any(place.glob(f"{EVALUATION}/{decoding}/evaluation.json")) or owner(place) for place in places)


def _content(cell: Cell, unused: Collection[str]) -> dict[str, Any]:
    """What a cell is trained and evaluated with; its seed, where a run would be written, and what is unused aside."""
    recipe = cell.recipe.model_dump(
        mode="json", exclude={"seed": True, "name": True, "output": True, "evaluation": set(unused)}
    )
    return cell.settings.model_dump(mode="json") | recipe


def _to_json(plan: Plan) -> dict[str, Any]:
    cells = [
        {
            "method": cell.method,
            "label": cell.label,
            "setting": cell.setting,
            "seed": cell.seed,
            "settings": cell.settings.model_dump(mode="json"),
            "recipe": cell.recipe.model_dump(mode="json"),
            "evaluations": cell.evaluations,
        }
        for cell in plan.cells
    ]
    return {"tuning": plan.tuning.model_dump(mode="json"), "probe": plan.probe, "cells": cells, "data": dict(plan.data)}


def _read_cell(entry: Mapping[str, Any]) -> Cell:
    return Cell(
        method=entry["method"],
        label=entry["label"],
        setting=entry["setting"],
        seed=entry["seed"],
        settings=MethodSettings.model_validate(entry["settings"]),
        recipe=parse_recipe(entry["recipe"]),
        evaluations={name: tuple(parts) for name, parts in entry["evaluations"].items()},
    )


def _changed(place: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = _flat(before), _flat(now)
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield f"{place}{key} was {old.get(key)!r}, is {new.get(key)!r}"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {prefix + key: inner}
    return flat
