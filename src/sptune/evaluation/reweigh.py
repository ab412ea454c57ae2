"""Kept candidates chosen again with other weights: no model runs, so that a whole grid of weights is tried in seconds a point."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import TYPE_CHECKING

from sptune.errors import UsageError
from sptune.evaluation.generation import Generation, chosen_reply, measure
from sptune.evaluation.metrics.f1 import unigram_f1
from sptune.evaluation.metrics.profile import PROFILES
from sptune.evaluation.rerank import RerankWeights, Similarity, TurnCandidates, consensus
from sptune.evaluation.significance import BootstrapResult, paired_bootstrap

if TYPE_CHECKING:
    from sptune.evaluation.turns import Progress

Place = tuple[str, int]
"""Dialogue and turn."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Replies to the same turns, measured; means over the seeds.

    Attributes:
        values: metric -> figure.
        human: reference-free metric -> figure of the human responses.
        f1: turn -> F1 of its reply, in percent.
    """

    values: dict[str, float]
    human: dict[str, float]
    f1: dict[Place, float]


@dataclass(frozen=True, slots=True)
class Weighed:
    """What one choice of weights makes of the candidates.

    Attributes:
        weights: what a candidate's score weighed.
        replies: those that were chosen, measured.
    """

    weights: RerankWeights
    replies: Measured


def weights_grid(values: Mapping[str, Sequence[object]]) -> list[RerankWeights]:
    """Every combination of values of the fields of `RerankWeights`; a field that is not named keeps its default.

    Args:
        values: field -> values to try.

    Raises:
        UsageError: no such field, or a value that is no weight.

    >>> [weights.prior for weights in weights_grid({"prior": [0.0, 0.5], "consensus": [5.0]})]
    [0.0, 0.5]
    """
    known = [field.name for field in fields(RerankWeights)]
    for name in values:
        if name not in known:
            raise UsageError(f"{name}: is no weight of a candidate; give {', '.join(known)}")
    combinations = itertools.product(*values.values())
    return [RerankWeights(**dict(zip(values, one, strict=True))) for one in combinations]  # type: ignore[arg-type]


def with_similarity(turns: Sequence[TurnCandidates], similarity: Similarity) -> list[TurnCandidates]:
    """The same candidates, their consensus measured by another similarity."""
    return [_agreeing(turn, consensus([one.text for one in turn.candidates], similarity)) for turn in turns]


def weigh(
    seeds: Sequence[Sequence[TurnCandidates]],
    grid: Sequence[RerankWeights],
    *,
    profile: str,
    bertscore_model: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Weighed]:
    """Choose and measure the replies of all turns with each of `grid`, in its order.

    Args:
        seeds: candidates of the same turns, one list a training seed; at least one of each.
        grid: the weights to try.
        profile: rules of the metrics, `paper` or `standard`.
        bertscore_model: encoder of BERTScore, 30 ms a reply and point; None leaves it out.
        progress: called at the start and after every choice of weights.

    Raises:
        UsageError: a prior has a weight, but the candidates hold none.
    """
    if progress:
        progress("rerank", 0, len(grid))
    for number, weights in enumerate(grid, start=1):
        chosen = [[chosen_reply(turn, weights) for turn in turns] for turns in seeds]
        found = measure_seeds(chosen, profile=profile, bertscore_model=bertscore_model)
        if progress:
            progress("rerank", number, len(grid))
        yield Weighed(weights, found)


def measure_seeds(
    seeds: Sequence[Sequence[Generation]], *, profile: str, bertscore_model: str | None = None
) -> Measured:
    """The figures of replies to the same turns, one list a training seed, and their means; without self-BLEU, for speed.

    Raises:
        UsageError: an unknown profile.
    """
    found = [measure(replies, profile=profile, bertscore_model=bertscore_model, seed=None) for replies in seeds]
    values = {name: fmean([one.values[name] for one in found]) for name in found[0].values}
    rule = PROFILES[profile].f1
    each = [{_place(one): unigram_f1(one.prediction, one.reference, rule) for one in replies} for replies in seeds]
    return Measured(values, found[0].human, {place: fmean([one[place] for one in each]) for place in each[0]})


def f1_difference(own: Measured, other: Measured) -> BootstrapResult | None:
    """How much more F1 `own` has than `other` has on the same turns, with its 95% interval by dialogue; None with one dialogue."""
    places = list(own.f1)
    if len({dialogue for dialogue, _ in places}) < 2:
        return None
    ours, theirs = ([one.f1[place] for place in places] for one in (own, other))
    return paired_bootstrap(ours, theirs, [dialogue for dialogue, _ in places])


def first_difference(
    ours: Sequence[TurnCandidates | Generation], theirs: Sequence[TurnCandidates | Generation]
) -> str | None:
    """The first turn that only one of both has, in words. Other data may number its dialogues alike, so gold responses count too."""
    own, other = ({_place(one): one.reference for one in many} for many in (ours, theirs))
    for dialogue, turn in {**own, **other}:
        place = f"dialogue {dialogue!r}, turn {turn}"
        if (dialogue, turn) not in other:
            return f"{place} is not there"
        if (dialogue, turn) not in own:
            return f"{place} is there"
        if own[dialogue, turn] != other[dialogue, turn]:
            return f"{place} has another gold response there"
    return None


def _place(one: TurnCandidates | Generation) -> Place:
    return one.dialogue, one.turn


def _agreeing(turn: TurnCandidates, agreement: Sequence[float]) -> TurnCandidates:
    both = zip(turn.candidates, agreement, strict=True)
    return replace(turn, candidates=tuple(replace(one, consensus=agreed) for one, agreed in both))
