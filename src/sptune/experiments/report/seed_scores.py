"""The metrics of a system as functions of rows, averaged over its seeds, for the paired bootstrap by dialogue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sptune.evaluation.generation import Generation
from sptune.evaluation.metrics.diversity import EAD_VOCABULARY
from sptune.evaluation.metrics.profile import PROFILES, Reply, corpus_scores, per_reply
from sptune.evaluation.metrics.resampling import CorpusScore
from sptune.evaluation.result import TurnRecord
from sptune.experiments.report.own_likelihood import own_logprob
from sptune.report.run_folder import Evaluated
from sptune.text import tokenize_words

Rows: TypeAlias = NDArray[np.intp]
Place: TypeAlias = tuple[str, int]
"""Dialogue and turn."""

MOST_NATS = 300.0  # a token, in a perplexity: that of a training that went wrong, which can still be squared


@dataclass(frozen=True, slots=True)
class SeedScore:
    """A metric of a system over the same turns with every seed.

    Attributes:
        places: the turn of each row.
        of_rows: indices of rows, repetitions allowed -> mean over the seeds of the metric of these rows.
    """

    places: tuple[Place, ...]
    of_rows: CorpusScore

    @property
    def dialogues(self) -> list[str]:
        """The dialogue of each row: what is resampled."""
        return [dialogue for dialogue, _ in self.places]


def seed_scores(evaluations: Sequence[Evaluated]) -> dict[str, SeedScore]:
    """Every metric that the kept files have for single turns or replies.

    Args:
        evaluations: of one system, one a seed.

    Returns:
        f1, bleu, rouge1, rouge2, rougeL, bertscore_f1, bertscore_precision, bertscore_recall, dist1, dist2, ead1, ead2,
        words, perplexity (of the decoding's own distribution), hits_at_1 -> score. Those that a seed lacks, or that are
        of other turns with another seed, are left out.
    """
    each = [_of_replies(one) | _of_turns(one) for one in evaluations]
    shared = [name for name in each[0] if all(name in scores for scores in each)] if each else []
    found = {name: [scores[name] for scores in each] for name in shared}
    return {name: mean_score(scores) for name, scores in found.items() if len({one.places for one in scores}) == 1}


def mean_score(scores: Sequence[SeedScore]) -> SeedScore:
    """The mean of scores of the same rows; each set of rows is worked out once."""
    parts = [one.of_rows for one in scores]
    return SeedScore(scores[0].places, _remembered(lambda rows: math.fsum(part(rows) for part in parts) / len(parts)))


def perplexity_score(turns: Sequence[TurnRecord], costs: NDArray[np.float64]) -> SeedScore:
    """Perplexity of one seed's responses as a function of rows.

    Args:
        turns: of the test data.
        costs: (n,) cost of each response in nats, summed over its tokens.
    """
    tokens = np.array([turn.tokens or 0 for turn in turns])  # (n,)

    def perplexity(rows: Rows) -> float:
        return math.exp(min(float(costs[rows].sum()) / max(1, int(tokens[rows].sum())), MOST_NATS))

    places = tuple((turn.dialogue, turn.turn) for turn in turns)
    return SeedScore(places, perplexity)


def _of_turns(one: Evaluated) -> dict[str, SeedScore]:
    found = {}
    costs = [-logprob for turn in one.turns if (logprob := own_logprob(turn, one.name)) is not None]
    if costs and len(costs) == len(one.turns):
        found["perplexity"] = perplexity_score(one.turns, np.array(costs))
    ranked = [turn for turn in one.turns if turn.rank is not None]
    if ranked:
        first = [100.0 * (turn.rank == 1) for turn in ranked]
        found["hits_at_1"] = SeedScore(tuple((turn.dialogue, turn.turn) for turn in ranked), _mean(first))
    return found


def _of_replies(one: Evaluated) -> dict[str, SeedScore]:
    profile = one.result.settings.get("profile")
    if not one.generations or profile not in PROFILES:
        return {}
    replies = as_replies(one.generations)
    places = tuple((reply.dialogue_id, reply.turn) for reply in replies)
    each = per_reply(replies, profile)
    found = {name: _mean([row[name] for row in each]) for name in each[0]}
    found |= {name: _remembered(score) for name, score in corpus_scores(replies, profile).items()}
    found |= _bertscores(one.generations)
    lengths = np.array([len(tokenize_words(reply.prediction, PROFILES[profile].words)) for reply in replies])
    found |= {f"ead{n}": _adjusted(found[f"dist{n}"], np.maximum(lengths - n + 1, 0)) for n in (1, 2)}
    return {name: SeedScore(places, score) for name, score in found.items()}


def _bertscores(generations: Sequence[Generation]) -> dict[str, CorpusScore]:
    known = [one.bertscore for one in generations if one.bertscore]
    if len(known) < len(generations):
        return {}
    parts = ("f1", "precision", "recall")
    return {f"bertscore_{part}": _mean([getattr(score, part) for score in known]) for part in parts}


def as_replies(generations: Sequence[Generation]) -> list[Reply]:
    """Generations in the form that the metrics take."""
    return [Reply(one.prediction, one.reference, one.persona, one.dialogue, one.turn) for one in generations]


def _mean(values: Sequence[float]) -> CorpusScore:
    array = np.array(values, dtype=np.float64)
    return lambda rows: float(array[rows].mean())


def _adjusted(distinct: CorpusScore, counts: NDArray[np.int_]) -> CorpusScore:
    """Expectation-adjusted DIST, out of DIST = 100 N / C and the n-grams of each reply; see `metrics.diversity`."""

    def score(rows: Rows) -> float:
        total = int(counts[rows].sum())
        expected = -EAD_VOCABULARY * math.expm1(total * math.log1p(-1.0 / EAD_VOCABULARY))
        return distinct(rows) * total / expected if total else 0.0

    return score


def _remembered(score: CorpusScore) -> CorpusScore:
    """`score`, worked out once for each set of rows: every comparison draws the same dialogues."""
    known: dict[bytes, float] = {}

    def look_up(rows: Rows) -> float:
        key = blake2b(rows.tobytes(), digest_size=16).digest()
        if key not in known:
            known[key] = score(rows)
        return known[key]

    return look_up
