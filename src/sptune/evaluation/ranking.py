"""Ranks the gold response among a turn's candidates by likelihood under the chosen prompt: hits@k and MRR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from sptune.errors import DataError, ModelError
from sptune.evaluation.candidates import Prefix, Way, find_way, mean_logprobs, run_prefix

if TYPE_CHECKING:
    from sptune.evaluation.turns import ChosenTurn, Progress
    from sptune.model.spt import SPTModel


@dataclass(frozen=True, slots=True)
class TurnRank:
    """Where the gold response of one turn stands.

    Attributes:
        dialogue: id of its dialogue.
        turn: number of the turn in its dialogue, from 0.
        rank: 1 + the number of other candidates that score at least as high; 1 is best.
        candidates: how many different candidates there were, the gold response included.
    """

    dialogue: str
    turn: int
    rank: int
    candidates: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """How often the gold response ranks high (Dinan et al. 2019, ConvAI2).

    Attributes:
        turns: how many turns were ranked.
        turns_without_candidates: how many could not be: fewer than two different candidates.
        mean_candidates: different candidates a ranked turn, the gold response included.
        hits_at_1: share of turns, in percent, whose gold response ranks first.
        hits_at_5: likewise, among the first 5.
        hits_at_20: likewise, among the first 20; 100 where no turn has more candidates.
        mrr: mean of 1 / rank, 0..1.
    """

    turns: int
    turns_without_candidates: int
    mean_candidates: float
    hits_at_1: float
    hits_at_5: float
    hits_at_20: float
    mrr: float


def rank_turns(
    model: SPTModel, turns: Sequence[ChosenTurn], *, way: Way | None = None, progress: Progress | None = None
) -> list[TurnRank]:
    """Rank the gold response of every turn that has at least two different candidates.

    Candidates score their mean log-probability per token (stop token included where one is learned) under the turn's
    chosen prompt. They are told apart by their text, white space around it aside: one that is listed twice counts once,
    and every copy of the gold response is the gold response. Ties count as wrong.

    Args:
        model: the model.
        turns: from `choose_prompts`.
        way: how candidates share their context; the fastest that is exact for this model where None.
        progress: called at the start and after every sequence.

    Returns:
        The ranks, in the order of `turns`.

    Raises:
        DataError: candidates without the gold response, or one that does not fit the base model's window.
        ModelError: the model gives a log-probability that is not finite.
    """
    tasks = [task for turn in turns if len((task := _Task(turn, _candidates(model, turn))).candidates) > 1]
    if not tasks:
        return []
    if progress:
        progress("ranking", 0, len(tasks))
    way = way or find_way(model.backbone)
    ranks: list[TurnRank] = []
    for _, group in groupby(tasks, key=lambda task: id(task.turn.sequence)):
        ranks += _rank_sequence(model, list(group), way)
        if progress:
            progress("ranking", len(ranks), len(tasks))
    return ranks


def ranking(ranks: Sequence[TurnRank], *, turns: int) -> Ranking | None:
    """The figures of `ranks`, out of `turns` evaluated turns; None where no turn could be ranked.

    Ranks 1, 2 and 4 of 4 candidates give hits@1 1/3, hits@5 3/3 and MRR (1 + 1/2 + 1/4) / 3.

    >>> figures = ranking([TurnRank("a", n, rank, 4) for n, rank in enumerate([1, 2, 4])], turns=3)
    >>> round(figures.hits_at_1, 2), figures.hits_at_5, round(figures.mrr, 4)
    (33.33, 100.0, 0.5833)
    """
    if not ranks:
        return None
    count = len(ranks)
    hits = {k: 100.0 * sum(one.rank <= k for one in ranks) / count for k in (1, 5, 20)}
    return Ranking(
        turns=count,
        turns_without_candidates=turns - count,
        mean_candidates=sum(one.candidates for one in ranks) / count,
        hits_at_1=hits[1],
        hits_at_5=hits[5],
        hits_at_20=hits[20],
        mrr=math.fsum(1 / one.rank for one in ranks) / count,
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """A turn to rank, and the token ids of its different candidates, the gold response first."""

    turn: ChosenTurn
    candidates: tuple[tuple[int, ...], ...]


def _candidates(model: SPTModel, turn: ChosenTurn) -> tuple[tuple[int, ...], ...]:
    """Token ids of the turn's different candidates, the gold response first; nothing where it has none."""
    gold = (turn.turn.response or "").strip()
    others = [text.strip() for text in turn.turn.candidates]
    if not others:
        return ()
    if gold not in others:
        place = f" (line {turn.turn.line})" if turn.turn.line else ""
        raise DataError(
            f"dialogue {turn.dialogue.id!r}, turn {turn.span.turn}{place}: the candidates do not hold the response "
            f"{gold!r}; put it among them, or evaluate without ranking"
        )
    candidates = tuple(model.encoder.response_ids(text) for text in dict.fromkeys([gold, *others]))
    needed = model.prompts.length + turn.span.context_length + max(map(len, candidates))
    window = model.backbone.window
    if window is not None and needed > window:
        raise DataError(
            f"dialogue {turn.dialogue.id!r}, turn {turn.span.turn}: prompt, context and the longest candidate need "
            f"{needed} places, the base model's window is {window}; shorten the candidate, or evaluate without ranking"
        )
    return candidates


@torch.no_grad()
def _rank_sequence(model: SPTModel, tasks: Sequence[_Task], way: Way) -> list[TurnRank]:
    """Ranks of turns that are read from one sequence: each prompt that was chosen runs it once."""
    backbone = model.backbone
    ranks: dict[int, TurnRank] = {}
    for prompt in {task.turn.selection.prompt for task in tasks}:
        members = [n for n, task in enumerate(tasks) if task.turn.selection.prompt == prompt]
        longest = max((tasks[n].turn.context_ids for n in members), key=len)
        tokens = backbone.embed(torch.tensor(longest, device=backbone.device))
        embeddings = torch.cat([model.prompts.embeddings[prompt].to(tokens.dtype), tokens])
        prefix = run_prefix(backbone, embeddings, way=way)
        for n in members:
            ranks[n] = _rank(model, tasks[n], prefix, way)
    return [ranks[n] for n in range(len(tasks))]


def _rank(model: SPTModel, task: _Task, prefix: Prefix, way: Way) -> TurnRank:
    span = task.turn.span
    unique = list(dict.fromkeys(task.candidates))  # scored once each, so that equal tokens tie exactly
    context = model.prompts.length + span.context_length
    means = mean_logprobs(model.backbone, prefix, unique, context=context, stop_id=model.encoder.stop_id, way=way)
    if any(map(math.isnan, means)):
        raise ModelError(
            f"dialogue {task.turn.dialogue.id!r}, turn {span.turn}: the model gives a log-probability that is not a "
            "number; evaluate with --dtype float32, and check the adapter"
        )
    score = dict(zip(unique, means, strict=True))
    gold, *others = (score[ids] for ids in task.candidates)
    return TurnRank(task.turn.dialogue.id, span.turn, 1 + sum(other >= gold for other in others), len(task.candidates))
