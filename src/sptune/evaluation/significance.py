"""Are two systems different? Paired bootstrap over dialogues, for means of replies and for corpus metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sptune.errors import UsageError

# The value of each reply (their mean is the metric), or a function from rows (indices of replies) to a corpus metric.
Scores = Sequence[float] | NDArray[Any] | Callable[[NDArray[np.intp]], float]


@dataclass(frozen=True, slots=True)
class BootstrapResult:
    """A difference of a metric, its interval, and how often chance alone would make one as large (0..1)."""

    difference: float
    low: float
    high: float
    p_value: float

    @property
    def holds_zero(self) -> bool:
        """Whether no difference at all is within the interval."""
        return self.low <= 0.0 <= self.high


def paired_bootstrap(
    a: Scores,
    b: Scores,
    clusters: Sequence[str],
    *,
    replace: bool = True,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> BootstrapResult:
    """Difference a - b of a metric between two systems on the same replies, with interval and two-sided p-value.

    Whole dialogues are resampled, the same for both systems: the replies of one are not independent. With the difference d and its resampled
    values d*, the interval is `[d + q_low(d* - mean d*), d + q_high(d* - mean d*)]`, and `p = P(|T| >= |d| / sd(d*))` with
    Student's T of one degree of freedom fewer than there are dialogues. With fewer than 20 dialogues both are rough.

    DIST and its kin (`metrics.resampling.DISTINCT_METRICS`) are to be compared with `replace=False`: a dialogue that is drawn
    twice holds no new n-gram, so that a bootstrap takes their differences for more certain than they are
    (benchmarks/false_alarms.py). Four fifths of the dialogues are then drawn, each once, and the deviations scaled to the
    whole, `sqrt(m / (n - m))` (delete-d jackknife; Shao and Wu 1989).

    Args:
        a: the first system: value of each reply, whose mean is the metric, or a function from rows to a corpus metric.
        b: the second system, likewise.
        clusters: the dialogue of each reply.
        replace: draw as many dialogues as there are, with replacement; otherwise four fifths of them, without.
        samples: number of resamples.
        seed: of the resampling.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The difference over all replies, its interval and the p-value.

    Raises:
        UsageError: fewer than two dialogues, lengths that differ, or a setting out of range.
    """
    codes, count = _number(clusters)
    draws, scale = _draw(count, replace, samples, seed, level)
    of_a, resampled_a = _resample("a", a, codes, draws)
    of_b, resampled_b = _resample("b", b, codes, draws)
    difference, resampled = of_a - of_b, resampled_a - resampled_b
    deviations = scale * (resampled - resampled.mean())
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(deviations, [tail, 1.0 - tail])
    return BootstrapResult(
        difference, difference + float(low), difference + float(high), _p_value(difference, deviations, count)
    )


def _number(clusters: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """The number of each row's dialogue (n,), and how many dialogues there are."""
    number = {cluster: at for at, cluster in enumerate(sorted(set(clusters)))}  # whatever the order of the replies
    if len(number) < 2:
        raise UsageError(f"clusters: {len(number)} dialogue(s) cannot be resampled; at least 2 are needed")
    return np.array([number[cluster] for cluster in clusters], dtype=np.intp), len(number)


def _draw(count: int, replace: bool, samples: int, seed: int, level: float) -> tuple[NDArray[np.int64], float]:
    """How often each resample drew each dialogue (samples, count), and what brings deviations to the scale of the whole."""
    if samples < 1:
        raise UsageError(f"samples: {samples} resamples are too few; give at least 1 (2000 is usual)")
    if not 0.0 < level < 1.0:
        raise UsageError(f"level: {level} is not between 0 and 1; 0.95 is usual")
    random = np.random.default_rng(seed)
    if replace:
        return random.multinomial(count, np.full(count, 1.0 / count), size=samples), 1.0
    kept = max(1, count * 4 // 5)
    order = random.permuted(np.tile(np.arange(count), (samples, 1)), axis=1)
    return (order < kept).astype(np.int64), math.sqrt(kept / (count - kept))


def _resample(
    name: str, scores: Scores, codes: NDArray[np.intp], draws: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """The metric of all rows, and of each resample (samples,)."""
    rows = np.arange(len(codes))
    if callable(scores):
        return scores(rows), np.array([scores(np.repeat(rows, times[codes])) for times in draws])
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != codes.shape:
        raise UsageError(f"{name}: {values.shape} values for {len(codes)} replies; one value a reply is needed")
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)  # (number of clusters,)
    return float(values.mean()), (draws @ sums) / (draws @ sizes)


def _p_value(difference: float, deviations: NDArray[np.float64], dialogues: int) -> float:
    from scipy.stats import t

    if abs(difference) <= 1e-12:  # two identical systems differ by nothing, whatever the rounding
        return 1.0
    spread = float(deviations.std())
    return float(2.0 * t.sf(abs(difference) / spread, dialogues - 1)) if spread else 0.0
