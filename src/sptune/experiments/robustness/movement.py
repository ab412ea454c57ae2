"""How far choices, scores and metrics of a disturbed measurement are from those of the clean one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sptune.evaluation.metrics.profile import Reply, corpus_scores, per_reply
from sptune.evaluation.metrics.resampling import DISTINCT_METRICS
from sptune.evaluation.significance import Scores, paired_bootstrap

if TYPE_CHECKING:
    from sptune.evaluation.turns import ChosenTurn
    from sptune.experiments.robustness.measurement import Measurement

KEPT = "perplexity_kept"  # perplexity of the disturbed input under the prompts that the clean one chose


@dataclass(frozen=True, slots=True)
class ChoiceMovement:
    """How far the retriever's view of n turns moved.

    Attributes:
        changed: share of turns for which another prompt was chosen, 0..1.
        total_variation: mean over turns of `1/2 sum_k |softmax(s)_k - softmax(s')_k|`, 0..1.
        cosine: mean over turns of the cosine of the two score vectors; 1 is the same direction.
        usage: K shares of turns that chose each prompt, of the disturbed input.
    """

    changed: float
    total_variation: float
    cosine: float
    usage: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MetricMovement:
    """A metric, clean and disturbed.

    Attributes:
        clean: of the clean input.
        disturbed: of the disturbed one.
        difference: disturbed - clean.
        low: lower end of its 95% interval (paired bootstrap by dialogue).
        high: upper end.
        p_value: how often chance alone would make a difference as large.
    """

    clean: float
    disturbed: float
    difference: float
    low: float
    high: float
    p_value: float


def choice_movement(clean: Sequence[ChosenTurn], disturbed: Sequence[ChosenTurn]) -> ChoiceMovement:
    """Compare the scores and choices of two versions of the same turns."""
    before, after = (
        np.array([turn.selection.scores for turn in turns], dtype=np.float64) for turns in (clean, disturbed)
    )
    was, is_ = (np.array([turn.selection.prompt for turn in turns]) for turns in (clean, disturbed))
    return ChoiceMovement(
        changed=float((was != is_).mean()),
        total_variation=float(np.abs(_softmax(before) - _softmax(after)).sum(1).mean() / 2),
        cosine=float(_cosine(before, after).mean()),
        usage=tuple((np.bincount(is_, minlength=after.shape[1]) / len(is_)).tolist()),
    )


def metric_movements(
    clean: Measurement, disturbed: Measurement, *, profile: str, samples: int = 1000, seed: int = 0
) -> dict[str, MetricMovement]:
    """Every metric that both measurements have, with intervals by paired bootstrap over dialogues.

    Args:
        clean: of the clean input.
        disturbed: of as many turns, with the same gold responses.
        profile: rules of the text metrics.
        samples: resamples of the bootstrap.
        seed: of the resampling.

    Raises:
        UsageError: fewer than two dialogues.
    """
    dialogues = [turn.dialogue.id for turn in clean.turns]
    before, after = _values(clean, clean, profile), _values(disturbed, clean, profile)
    ranked = [name for name, rank in zip(dialogues, clean.ranks, strict=False) if rank]
    found = {}
    for name in before:
        clusters = ranked if name in ("hits_at_1", "mrr") else dialogues
        replace = name not in DISTINCT_METRICS
        moved = paired_bootstrap(after[name], before[name], clusters, replace=replace, samples=samples, seed=seed)
        whole = np.arange(len(clusters))
        first, second = (_of_rows(values[name], whole) for values in (before, after))
        found[name] = MetricMovement(first, second, moved.difference, moved.low, moved.high, moved.p_value)
    return found


def _values(measured: Measurement, clean: Measurement, profile: str) -> dict[str, Scores]:
    values: dict[str, Scores] = {}
    if measured.scores:
        values["perplexity"] = _perplexity(measured, measured)
        values[KEPT] = _perplexity(measured, clean)
    if ranks := [rank for rank in measured.ranks if rank]:
        values["hits_at_1"] = [100.0 * (one.rank == 1) for one in ranks]
        values["mrr"] = [1 / one.rank for one in ranks]
    if measured.replies:
        replies = [
            Reply(one.prediction, one.reference, one.persona, one.dialogue, one.turn) for one in measured.replies
        ]
        each = per_reply(replies, profile)
        values |= {name: [one[name] for one in each] for name in each[0]} | dict(corpus_scores(replies, profile))
    return values


def _perplexity(measured: Measurement, chooser: Measurement) -> Scores:
    """Perplexity of rows: of the likelihoods in `measured`, under the prompts that `chooser` chose."""
    pairs = zip(measured.scores, chooser.turns, strict=True)
    nll = np.array([-score.logprobs[turn.selection.prompt] for score, turn in pairs])
    tokens = np.array([score.tokens for score in measured.scores])
    return lambda rows: math.exp(float(nll[rows].sum()) / max(1, int(tokens[rows].sum())))


def _of_rows(values: Scores, rows: NDArray[np.intp]) -> float:
    return values(rows) if callable(values) else float(np.mean(values))


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) cosines of rows; two rows of zeros are alike, one of them is unlike all others."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine: NDArray[np.float64] = np.where(lengths > 0, (a * b).sum(1) / np.where(lengths > 0, lengths, 1.0), 0.0)
    return np.where((a == b).all(1), 1.0, cosine)
