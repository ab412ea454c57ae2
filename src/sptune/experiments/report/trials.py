"""The learning rates that each method tried before the comparison, out of `tuning.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sptune.experiments.folders import TUNING_NAME


class Trial(BaseModel):
    """A line of `tuning.jsonl`. A perplexity that is not finite is None."""

    model_config = ConfigDict(frozen=True)

    method: str
    learning_rate: float
    perplexity: float | None = None
    setting: dict[str, Any] = {}
    seconds: float | None = None
    seed: int = 0
    dialogues: int | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """The trials of a method with one setting.

    Attributes:
        method: its method.
        setting: dotted key -> value, where the method has a grid.
        trials: one a learning rate, in increasing order.
    """

    method: str
    setting: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The trial of the lowest perplexity; None where none has one."""
        known = [trial for trial in self.trials if trial.perplexity is not None]
        return min(known, key=lambda trial: trial.perplexity or 0.0, default=None)

    @property
    def edge(self) -> Literal["lowest", "highest"] | None:
        """Where the best rate is the first or the last of those tried, so that a better one may lie beyond."""
        if self.best is None or len(self.trials) < 2:
            return None
        ends: dict[int, Literal["lowest", "highest"]] = {0: "lowest", len(self.trials) - 1: "highest"}
        return ends.get(self.trials.index(self.best))


def read_trials(folder: Path, notes: list[str]) -> tuple[Trial, ...]:
    """The trials of a comparison; lines that cannot be read are counted in `notes`."""
    path = folder / TUNING_NAME
    if not path.exists():
        return ()
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    trials = [trial for line in lines if (trial := _parse(line))]
    if len(trials) < len(lines):
        notes.append(f"{len(lines) - len(trials)} line(s) of {TUNING_NAME} are damaged, and were left out.")
    return tuple(trials)


def group_trials(trials: Sequence[Trial]) -> list[Tuned]:
    """The trials by method and setting, in the order in which these come first; of equal rates the last counts."""
    groups: dict[str, dict[float, Trial]] = {}
    for trial in trials:
        key = json.dumps([trial.method, trial.setting], sort_keys=True)
        groups.setdefault(key, {})[trial.learning_rate] = trial
    return [_tuned(list(group.values())) for group in groups.values()]


def _tuned(trials: Sequence[Trial]) -> Tuned:
    ordered = sorted(trials, key=lambda trial: trial.learning_rate)
    return Tuned(ordered[0].method, ordered[0].setting, tuple(ordered))


def _parse(line: str) -> Trial | None:
    try:
        return Trial.model_validate_json(line)
    except ValidationError:
        return None
