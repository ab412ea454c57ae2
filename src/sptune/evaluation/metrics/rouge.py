"""ROUGE-1, ROUGE-2 and ROUGE-L of a reply against its reference, by the rouge-score package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


@dataclass(frozen=True, slots=True)
class Rouge:
    """F-measures in percent, 0..100: of unigrams, of bigrams and of the longest common subsequence."""

    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 - the metric's name


def rouge(prediction: str, reference: str, *, stem: bool = False) -> Rouge:
    """ROUGE F-measures in percent, `100 * 2PR / (P + R)`.

    P and R are precision and recall of n-grams or of the longest common subsequence. Source: Lin 2004; paper, metrics.
    The package lower-cases and keeps only a-z and 0-9, so it says nothing about other scripts.

    Args:
        prediction: the reply.
        reference: the gold response.
        stem: compare word stems (Porter) instead of words.

    Returns:
        The three scores; 0 where either text is empty.
    """
    scores = _scorer(stem).score(reference, prediction)
    return Rouge(*(100.0 * float(scores[name].fmeasure) for name in ("rouge1", "rouge2", "rougeL")))


@cache
def _scorer(stem: bool) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
