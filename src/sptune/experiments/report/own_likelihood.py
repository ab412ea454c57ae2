"""Whose likelihood an evaluation is of: files keep that of the chosen prompts, and beside it that of each mixture of them."""

from __future__ import annotations

import math
from dataclasses import replace

from sptune.config.compare import RERANK
from sptune.evaluation.result import EvaluationResult, TurnRecord
from sptune.evaluation.scoring import Likelihood

_MIXTURES = ("fused", "gated")


def with_own_likelihood(result: EvaluationResult, decoding: str) -> EvaluationResult:
    """`result` with the perplexity of the distribution that `decoding` speaks from; without one where there is none.

    Candidates are drawn from one distribution and chosen by another, so the choice among them has none of its own.
    """
    found = result.likelihood
    if found is None or decoding not in (*_MIXTURES, RERANK):
        return result
    perplexity = None if decoding == RERANK else getattr(found, f"{decoding}_perplexity")
    return replace(result, likelihood=None if perplexity is None else _of(found, perplexity))


def own_logprob(turn: TurnRecord, decoding: str) -> float | None:
    """Log-probability of a turn's response, nats, under the distribution that `decoding` speaks from; None where it is not known."""
    if turn.logprobs is None or decoding == RERANK:
        return None
    if decoding in _MIXTURES:
        mixed: float | None = getattr(turn, f"{decoding}_logprob")
        return mixed
    return turn.logprobs[turn.prompt]


def _of(found: Likelihood, perplexity: float) -> Likelihood:
    bits = found.tokens * math.log2(perplexity) / max(1, found.bytes)
    return replace(found, perplexity=perplexity, bits_per_byte=bits)
