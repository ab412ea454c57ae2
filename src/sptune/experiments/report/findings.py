"""Differences from the reference and gains over it, each with its interval and its p-value (Holm over the systems)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from sptune.evaluation.metrics.resampling import DISTINCT_METRICS, CorpusScore
from sptune.evaluation.significance import BootstrapResult, paired_bootstrap
from sptune.experiments.report.columns import SPECS
from sptune.experiments.report.gains import DIST, averaged_metrics, gain_score, matched_scores
from sptune.experiments.report.holm import holm
from sptune.experiments.report.seed_scores import SeedScore, seed_scores
from sptune.experiments.report.system import System

SAMPLES, LEVEL = 2000, 0.95
ALPHA = 0.05  # adjusted p-values below this are called significant

AVERAGE, F1, DISTINCT, ADJUSTED, MATCHED, SAVED = "average", "f1", "dist", "adjusted", "matched", "perplexity"

Scores: TypeAlias = dict[str, SeedScore]


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference or a gain.

    Attributes:
        chance: it, with its interval and its p-value.
        p_adjusted: the p-value after Holm's correction over the systems.
        significant: whether chance alone hardly makes one as large: the p-value is small and the interval leaves out 0.
            The two are worked out in different ways, which need not agree where dialogues are few.
    """

    chance: BootstrapResult
    p_adjusted: float
    significant: bool


Found: TypeAlias = dict[str, dict[str, Finding]]
"""Label of a system -> metric -> finding."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What sets the systems apart from the reference.

    Attributes:
        averaged: those of the paper's ten metrics that the average gain is of.
        differences: system - reference, in the metric's unit.
        gains: average (of the averaged metrics), f1, dist (mean of DIST-1 and DIST-2), adjusted (likewise, expectation-
            adjusted), matched (likewise, replies cut to the same length), perplexity (how much of the reference's is
            saved) -> gain over the reference, percent.
        fixed: averaged metrics that a system or the reference has no value of for single replies; there they stay as
            they are in the resamples.
    """

    averaged: tuple[str, ...]
    differences: Found
    gains: Found
    fixed: tuple[str, ...]


def find(systems: Sequence[System], reference: System | None) -> Findings:
    """Compare every system with the reference, by paired bootstraps over dialogues; differences of DIST by drawing each dialogue once at most.

    In gains the n-grams that a repeated dialogue does not add are missing above and below the line, so they are bootstrapped like the rest.

    A figure is its mean over the seeds, in each resample too: seeds are repeated measures of the same dialogues, and
    are not resampled. Systems evaluated on other turns than the reference have no findings.
    """
    if reference is None:
        return Findings((), {}, {}, ())
    averaged = averaged_metrics(systems, reference)
    base = _scores(reference)
    fixed: set[str] = set()
    differences: dict[str, dict[str, BootstrapResult]] = {}
    gains: dict[str, dict[str, BootstrapResult]] = {}
    for system in systems:
        if system is reference:
            continue
        own = _scores(system)
        shared = [name for name in SPECS if name in own and name in base and comparable(own[name], base[name])]
        differences[system.label] = {
            name: compare(own[name], base[name], replace=name not in DISTINCT_METRICS) for name in shared
        }
        gains[system.label] = _gains(system, reference, own=own, base=base, averaged=averaged)
        fixed |= set(averaged) - set(shared) if AVERAGE in gains[system.label] else set()
    tested = _corrected(differences)
    judged = {label: _judged(found, tested[label]) for label, found in _corrected(gains).items()}
    return Findings(averaged, tested, judged, tuple(sorted(fixed, key=averaged.index)))


def comparable(own: SeedScore, other: SeedScore) -> bool:
    """Whether two scores are of the same turns, of at least two dialogues."""
    return own.places == other.places and len(set(own.dialogues)) > 1


def compare(own: SeedScore, other: SeedScore, *, replace: bool = True) -> BootstrapResult:
    """The difference own - other of two comparable scores; `replace` as in `paired_bootstrap`."""
    return paired_bootstrap(own.of_rows, other.of_rows, own.dialogues, replace=replace, samples=SAMPLES, level=LEVEL)


def _scores(system: System) -> Scores:
    return seed_scores([cell.main for cell in system.cells if cell.main])


def _gains(
    system: System, reference: System, *, own: Scores, base: Scores, averaged: Sequence[str]
) -> dict[str, BootstrapResult]:
    """The gains that can be computed."""
    found = {}
    sets = {AVERAGE: averaged, F1: ("f1",), DISTINCT: DIST, ADJUSTED: ("ead1", "ead2")}
    for name, metrics in sets.items():
        shared = [metric for metric in metrics if metric in own and metric in base]
        known = [metric for metric in shared if comparable(own[metric], base[metric])]
        if known and (name == AVERAGE or len(known) == len(metrics)):
            left, right = (_of_rows(one, scores, metrics, known) for one, scores in ((system, own), (reference, base)))
            found[name] = _compare_gain(left, right, metrics=metrics, clusters=own[known[0]].dialogues)
    if "perplexity" in own and "perplexity" in base and comparable(own["perplexity"], base["perplexity"]):
        found[SAVED] = _saved(own["perplexity"], base["perplexity"])
    matched = matched_scores(system, reference)
    if matched and len(set(matched[0]["dist1"].dialogues)) > 1:
        left, right = ({name: one.of_rows for name, one in scores.items()} for scores in matched)
        found[MATCHED] = _compare_gain(left, right, metrics=DIST, clusters=matched[0]["dist1"].dialogues)
    return found


def _saved(own: SeedScore, reference: SeedScore) -> BootstrapResult:
    """Share of the reference's perplexity that is saved, percent."""
    return paired_bootstrap(
        lambda rows: 100.0 * (1.0 - own.of_rows(rows) / reference.of_rows(rows)),
        _constant(0.0),
        own.dialogues,
        samples=SAMPLES,
        level=LEVEL,
    )


def _of_rows(system: System, scores: Scores, metrics: Sequence[str], known: Sequence[str]) -> dict[str, CorpusScore]:
    """Scores by metric; those that are not known for single replies of both are the same whatever the rows."""
    found = {}
    for name in metrics:
        value = system.value(SPECS[name])
        assert name in known or value
        found[name] = scores[name].of_rows if name in known else _constant(value.mean if value else 0.0)
    return found


def _constant(value: float) -> CorpusScore:
    return lambda rows: value


def _compare_gain(
    own: Mapping[str, CorpusScore],
    reference: Mapping[str, CorpusScore],
    *,
    metrics: Sequence[str],
    clusters: Sequence[str],
) -> BootstrapResult:
    score = gain_score(own, reference, metrics)
    return paired_bootstrap(score, _constant(0.0), clusters, samples=SAMPLES, level=LEVEL)


def _corrected(found: Mapping[str, Mapping[str, BootstrapResult]]) -> Found:
    """With p-values adjusted over the systems, metric by metric."""
    corrected: Found = {label: {} for label in found}
    for metric in dict.fromkeys(name for by_metric in found.values() for name in by_metric):
        p_values = {label: one[metric].p_value for label, one in found.items() if metric in one}
        for label, adjusted in holm(p_values).items():
            chance = found[label][metric]
            corrected[label][metric] = Finding(chance, adjusted, adjusted < ALPHA and not chance.holds_zero)
    return corrected


def _judged(gains: Mapping[str, Finding], differences: Mapping[str, Finding]) -> dict[str, Finding]:
    """Gains of one figure with the verdict of its difference, so that a report does not judge it twice."""
    return {name: _as_tested(one, differences[name]) if name in (F1, SAVED) else one for name, one in gains.items()}


def _as_tested(gain: Finding, difference: Finding) -> Finding:
    return replace(difference, chance=replace(gain.chance, p_value=difference.chance.p_value))
