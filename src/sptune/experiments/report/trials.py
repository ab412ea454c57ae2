"""The learning rates that each method tried before the comparison, and which of them was best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sptune.experiments.tuning_log import Trial


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
