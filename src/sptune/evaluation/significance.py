"""Are two systems different? Paired bootstrap over dialogues, for means of replies and for corpus metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sptune.errors import UsageError

# The value of each reply (their mean is the metric), or a function from rows (indices of replies) to a corpus metric.
Scores = Sequence[float] | NDArray[Any] | Callable[[NDArray[np.intp]], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric and its bootstrap interval, in the metric's unit."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BootstrapResult:
    """A difference of a metric, its bootstrap interval, and how often chance alone would make one as large (0..1)."""

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_interval(
    scores: Scores, clusters: Sequence[str], *, samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Bootstrap interval of a metric, resampling whole dialogues: the replies of one are not independent.

    `[m + q_low(m* - mean m*), m + q_high(m* - mean m*)]` with the metric m, its resampled values m* and quantiles q.
    Centring matters for DIST: a resample repeats dialogues, so its DIST is always lower than that of the whole.

    Args:
        scores: value of each reply, whose mean is the metric; or a function from rows to a corpus metric
            (`metrics.profile.corpus_scores`).
        clusters: the dialogue of each reply.
        samples: number of resamples.
        seed: of the resampling.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The metric of all replies and its interval.

    Raises:
        UsageError: fewer than two dialogues, lengths that differ, or a setting out of range.
    """
    codes, draws = _draw(clusters, samples, seed, level)
    estimate, resampled = _resample("scores", scores, codes, draws)
    low, high = _spread(resampled, level)
    return Interval(estimate, estimate + low, estimate + high)


def paired_bootstrap(
    a: Scores, b: Scores, clusters: Sequence[str], *, samples: int = 2000, seed: int = 0, level: float = 0.95
) -> BootstrapResult:
    """Difference a - b of a metric between two systems on the same replies, with interval and two-sided p-value.

    Each resample draws as many dialogues as there are, with replacement, the same for both systems. With the
    differences d* of the resamples, `p = (1 + #{|d* - mean d*| >= |d|}) / (1 + samples)` (Noreen 1989; Riezler and
    Maxwell 2005); the interval is centred as in `bootstrap_interval`. With fewer than 20 dialogues both are rough.

    Args:
        a: the first system: value of each reply, or a function from rows to a corpus metric.
        b: the second system, likewise.
        clusters: the dialogue of each reply.
        samples: number of resamples.
        seed: of the resampling.
        level: coverage of the interval, between 0 and 1.

    Returns:
        The difference over all replies, its interval and the p-value.

    Raises:
        UsageError: fewer than two dialogues, lengths that differ, or a setting out of range.
    """
    codes, draws = _draw(clusters, samples, seed, level)
    of_a, resampled_a = _resample("a", a, codes, draws)
    of_b, resampled_b = _resample("b", b, codes, draws)
    difference, resampled = of_a - of_b, resampled_a - resampled_b
    low, high = _spread(resampled, level)
    # a hair of tolerance: two identical systems differ by nothing, whatever the rounding
    as_large = np.abs(resampled - resampled.mean()) >= abs(difference) - 1e-12
    p_value = float(1 + as_large.sum()) / (1 + samples)
    return BootstrapResult(difference, difference + low, difference + high, p_value)


def _draw(clusters: Sequence[str], samples: int, seed: int, level: float) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Cluster number of each row (n,), and how often each resample drew each cluster (samples, number of clusters)."""
    if samples < 1:
        raise UsageError(f"samples: {samples} resamples are too few; give at least 1 (2000 is usual)")
    if not 0.0 < level < 1.0:
        raise UsageError(f"level: {level} is not between 0 and 1; 0.95 is usual")
    number = {cluster: at for at, cluster in enumerate(sorted(set(clusters)))}  # whatever the order of the replies
    codes = np.array([number[cluster] for cluster in clusters], dtype=np.intp)
    count = len(number)
    if count < 2:
        raise UsageError(f"clusters: {count} dialogue(s) cannot be resampled; at least 2 are needed")
    return codes, np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=samples)


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


def _spread(resampled: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Quantiles of the resampled values around their mean: below and above."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(resampled - resampled.mean(), [tail, 1.0 - tail])
    return float(low), float(high)
