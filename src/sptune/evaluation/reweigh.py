"""Kept candidates chosen again with other weights: no model runs, so that a whole grid of weights is tried in seconds a point."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from sptune.errors import UsageError
from sptune.evaluation.generation import chosen_reply, measure
from sptune.evaluation.rerank import RerankWeights, Similarity, TurnCandidates, consensus

if TYPE_CHECKING:
    from sptune.evaluation.turns import Progress


@dataclass(frozen=True, slots=True)
class Weighed:
    """What one choice of weights makes of the candidates.

    Attributes:
        weights: what a candidate's score weighed.
        values: metric -> figure of the replies that were chosen.
        human: reference-free metric -> figure of the human responses to the same turns.
    """

    weights: RerankWeights
    values: dict[str, float]
    human: dict[str, float]


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
    turns: Sequence[TurnCandidates],
    grid: Sequence[RerankWeights],
    *,
    profile: str,
    bertscore_model: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Weighed]:
    """Choose and measure the replies of all turns with each of `grid`, in its order.

    Args:
        turns: candidates of at least one turn.
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
        chosen = [chosen_reply(turn, weights) for turn in turns]
        found = measure(chosen, profile=profile, bertscore_model=bertscore_model)
        if progress:
            progress("rerank", number, len(grid))
        yield Weighed(weights, found.values, found.human)


def _agreeing(turn: TurnCandidates, agreement: Sequence[float]) -> TurnCandidates:
    both = zip(turn.candidates, agreement, strict=True)
    return replace(turn, candidates=tuple(replace(one, consensus=agreed) for one, agreed in both))
