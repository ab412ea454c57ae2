"""A figure over the steps of training, out of the records of `metrics.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Series:
    """Steps and as many values; records without the figure are left out."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True, slots=True)
class VectorSeries:
    """Steps and as many vectors of K values."""

    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.steps)

    def component(self, number: int) -> Series:
        """One of the K series."""
        return Series(self.steps, tuple(row[number] for row in self.values))


def series(records: Sequence[Record], name: str) -> Series:
    """The figure `name` over the steps."""
    kept = [(record["step"], float(record[name])) for record in records if name in record]
    return Series(tuple(step for step, _ in kept), tuple(value for _, value in kept))


def vector_series(records: Sequence[Record], name: str) -> VectorSeries:
    """The vector `name` over the steps; vectors of another length than the last one are left out."""
    kept = [(record["step"], tuple(map(float, record[name]))) for record in records if name in record]
    kept = [(step, row) for step, row in kept if len(row) == len(kept[-1][1])]
    return VectorSeries(tuple(step for step, _ in kept), tuple(row for _, row in kept))


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Mean of each value and up to `reach` values on either side of it.

    >>> running_mean([1.0, 3.0, 8.0, 6.0], 1)
    [2.0, 4.0, 5.666666666666667, 7.0]
    """
    near = [values[max(0, centre - reach) : centre + reach + 1] for centre in range(len(values))]
    return [math.fsum(part) / len(part) for part in near]
