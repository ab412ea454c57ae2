"""Relative gains over the reference, in percent: the AVG column of the paper's table, and its like for other metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sptune.evaluation.metrics.profile import PROFILES
from sptune.evaluation.metrics.resampling import CorpusScore, distinct_of_rows
from sptune.experiments.report.columns import PAPER
from sptune.experiments.report.seed_scores import Rows, SeedScore, as_replies, mean_score
from sptune.experiments.report.system import System
from sptune.report.run_folder import Evaluated
from sptune.text import Rule, tokenize_words

DIST = ("dist1", "dist2")


def mean_gain(own: Mapping[str, float], reference: Mapping[str, float], metrics: Sequence[str]) -> float:
    """`100 / M * sum_m (own_m - reference_m) / reference_m` over M metrics, in percent (paper, tables: avg gain).

    Args:
        own: metric -> figure of a system; higher is better.
        reference: metric -> figure of the reference. A figure of 0, of which there is no share, counts as no gain.
        metrics: which to average, at least one.

    >>> round(mean_gain({"f1": 11.0, "bleu": 3.0}, {"f1": 10.0, "bleu": 2.0}, ["f1", "bleu"]), 6)
    30.0
    """
    gains = (own[name] / reference[name] - 1 if reference[name] else 0.0 for name in metrics)
    return 100.0 * math.fsum(gains) / len(metrics)


def averaged_metrics(systems: Sequence[System], reference: System) -> tuple[str, ...]:
    """Those of the paper's ten metrics that are averaged: every system that has replies has them, the reference above 0.

    A metric that one system lacks is left out for all, so that the averages are of the same metrics.
    """
    measured = [system for system in systems if any(system.value(spec) for spec in PAPER)]
    kept = []
    for spec in PAPER:
        base = reference.value(spec)
        if base and base.mean > 0 and all(system.value(spec) for system in measured):
            kept.append(spec.key)
    return tuple(kept)


def gain_score(
    own: Mapping[str, CorpusScore], reference: Mapping[str, CorpusScore], metrics: Sequence[str]
) -> CorpusScore:
    """The mean gain as a function of rows."""

    def score(rows: Rows) -> float:
        left, right = ({name: scores[name](rows) for name in metrics} for scores in (own, reference))
        return mean_gain(left, right, metrics)

    return score


def matched_scores(system: System, reference: System) -> tuple[dict[str, SeedScore], dict[str, SeedScore]] | None:
    """DIST of both at matched length: of two replies to a turn, the longer is cut to the words of the shorter.

    Replies of the same seed are matched; where the two share no seed, the first with the first, and so on.

    Returns:
        dist1, dist2 -> score, of the system and of the reference; None where they cannot be matched.
    """
    pairs = _pairs(system, reference)
    matched = [_matched(own, other) for own, other in pairs if _alike(own, other)]
    if not matched or len(matched) < len(pairs):
        return None
    left, right = ([pair[side] for pair in matched] for side in (0, 1))
    if len({one["dist1"].places for one in left}) > 1:
        return None
    return _means(left), _means(right)


def _means(scores: Sequence[dict[str, SeedScore]]) -> dict[str, SeedScore]:
    return {name: mean_score([one[name] for one in scores]) for name in DIST}


def _pairs(system: System, reference: System) -> list[tuple[Evaluated, Evaluated]]:
    own, other = ({cell.record.seed: cell.main for cell in one.cells if cell.main} for one in (system, reference))
    shared = [seed for seed in own if seed in other]
    if shared:
        return [(own[seed], other[seed]) for seed in shared]
    return list(zip(own.values(), other.values(), strict=False))


def _alike(own: Evaluated, other: Evaluated) -> bool:
    """The same turns, by the same rules."""
    turns = [[(one.dialogue, one.turn) for one in each.generations] for each in (own, other)]
    profiles = [each.result.settings.get("profile") for each in (own, other)]
    return bool(turns[0]) and turns[0] == turns[1] and profiles[0] == profiles[1] and profiles[0] in PROFILES


def _matched(own: Evaluated, other: Evaluated) -> tuple[dict[str, SeedScore], dict[str, SeedScore]]:
    rule = PROFILES[own.result.settings["profile"]].words
    left, right = cut_to_shorter(
        [one.prediction for one in own.generations], [one.prediction for one in other.generations], rule
    )
    places = tuple((reply.dialogue_id, reply.turn) for reply in as_replies(own.generations))
    first, second = (
        {f"dist{n}": SeedScore(places, distinct_of_rows(texts, n, rule)) for n in (1, 2)} for texts in (left, right)
    )
    return first, second


def cut_to_shorter(left: Sequence[str], right: Sequence[str], rule: Rule) -> tuple[list[str], list[str]]:
    """Both lists of texts, each pair cut to the number of words of its shorter text.

    >>> cut_to_shorter(["i sail a boat"], ["me too"], "whitespace")
    (['i sail'], ['me too'])
    """
    words = [(tokenize_words(one, rule), tokenize_words(two, rule)) for one, two in zip(left, right, strict=True)]
    shorter = [min(len(one), len(two)) for one, two in words]
    first, second = ([" ".join(pair[side][:n]) for pair, n in zip(words, shorter, strict=True)] for side in (0, 1))
    return first, second
