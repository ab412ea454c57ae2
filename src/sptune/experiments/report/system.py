"""A system: a method with one setting and one decoding, over all its seeds; its figures are means over them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sptune.config.compare import TOP1
from sptune.evaluation.result import EvaluationResult
from sptune.experiments.report.kept_cell import KeptCell
from sptune.report.metric_specs import MetricSpec, value_of


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A figure over seeds.

    Attributes:
        mean: over the seeds.
        spread: sample standard deviation over the seeds; None for one seed.
        seeds: how many.
    """

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class System:
    """What is compared.

    Attributes:
        label: as its folder is called, and a decoding beside top-1: `k@prompts.count=8 (gated)`.
        method: its method in the settings.
        kind: of the method.
        setting: dotted key -> value, where the method has a grid.
        cells: the complete ones, by seed; at least one. They are shown under the decoding.
        decoding: that the replies are of.
    """

    label: str
    method: str
    kind: str
    setting: dict[str, Any]
    cells: tuple[KeptCell, ...]
    decoding: str = TOP1

    @property
    def name(self) -> str:
        """The method, the values of its setting, and a decoding beside top-1: short, for plots."""
        return with_decoding(" · ".join([self.method, *map(str, self.setting.values())]), self.decoding)

    @property
    def results(self) -> list[EvaluationResult]:
        """The evaluations, one a seed."""
        return [cell.main.result for cell in self.cells if cell.main]

    @property
    def prompts(self) -> int:
        """K of the first seed; 1 where it is not known."""
        model = self.results[0].model
        return model.prompts if model else 1

    def value(self, spec: MetricSpec) -> OverSeeds | None:
        """A figure of the evaluations; None where a seed lacks it."""
        return over_seeds([value_of(result, spec) for result in self.results])

    def cost(self, name: str) -> OverSeeds | None:
        """A figure of `cell.json`, by its name there; None where a seed lacks it."""
        return over_seeds([getattr(cell.record, name) for cell in self.cells])


def with_decoding(name: str, decoding: str) -> str:
    """A name that tells the decodings of one adapter apart.

    >>> with_decoding("spt", "top1"), with_decoding("spt", "gated")
    ('spt', 'spt (gated)')
    """
    return name if decoding == TOP1 else f"{name} ({decoding})"


def over_seeds(values: Sequence[float | None]) -> OverSeeds | None:
    """Mean and spread of one value a seed; None without seeds, or where one lacks its value.

    >>> over_seeds([1.0, 3.0])
    OverSeeds(mean=2.0, spread=1.4142135623730951, seeds=2)
    """
    known = [float(value) for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    spread = statistics.stdev(known) if len(known) > 1 else None
    return OverSeeds(math.fsum(known) / len(known), spread, len(known))
