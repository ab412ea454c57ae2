"""Ranks the gold response among a turn's candidates by likelihood, or by mutual information: hits@k and MRR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from sptune.errors import DataError, ModelError
from sptune.evaluation.candidate_replies import Reranking, Sampling
from sptune.evaluation.priors import Priors
from sptune.evaluation.rerank import RerankWeights, informative_likelihood, prior_logprob, recalled
from sptune.model.mixture import Likelihood, mixture_weights, response_logprob
from sptune.model.prefix import Way, find_way, prompted, run_prefix, token_logprobs

if TYPE_CHECKING:
    from torch import Tensor

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
    model: SPTModel,
    turns: Sequence[ChosenTurn],
    *,
    kind: Likelihood = "top1",
    gate_temperature: float = 0.1,
    reranking: Reranking | None = None,
    way: Way | None = None,
    progress: Progress | None = None,
) -> list[TurnRank]:
    """Rank the gold response of every turn that has at least two different candidates.

    Candidates score their mean log-probability per token (stop token included where one is learned) under the turn's
    chosen prompt, or under a mixture of prompts. They are told apart by their text, white space around it aside: one
    that is listed twice counts once, and every copy of the gold response is the gold response. Ties count as wrong.
    `reranking` scores them as it does drawn candidates (see `rerank`), consensus aside: those are the model's own,
    these come from elsewhere.

    Args:
        model: the model.
        turns: from `choose_prompts`.
        kind: whose likelihood counts: of the chosen prompt (`top1`), of the average of the K distributions at every
            token (`fused`), of their gated average (`gated`), or of one prompt drawn from the gate (`mixture`).
        gate_temperature: tau of the gate.
        reranking: the weights of likelihood, prior and persona recall, in place of `kind`.
        way: how candidates share their context; the fastest that is exact for this model where None.
        progress: called at the start and after every sequence.

    Returns:
        The ranks, in the order of `turns`.

    Raises:
        DataError: candidates without the gold response, or one that does not fit the base model's window.
        ModelError: the model gives a log-probability that is not finite.
    """
    how = reranking or Reranking(Sampling(prior="none"), RerankWeights(likelihood=kind, prior=0.0))
    tasks = [
        _Task(turn, own, mixture_weights(turn.selection, kind=how.weights.likelihood, temperature=gate_temperature))
        for turn in turns
        if len(own := _candidates(model, turn)) > 1
    ]
    if not tasks:
        return []
    if progress:
        progress("ranking", 0, len(tasks))
    ranker = _Ranker(model, how, way or find_way(model.backbone))
    ranks: list[TurnRank] = []
    for _, group in groupby(tasks, key=lambda task: id(task.turn.sequence)):
        ranks += ranker.rank(list(group))
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
    """A turn to rank, its different candidates with their token ids, the gold response first, and the prompts' weights."""

    turn: ChosenTurn
    candidates: dict[str, tuple[int, ...]]
    weights: tuple[float, ...]


def _candidates(model: SPTModel, turn: ChosenTurn) -> dict[str, tuple[int, ...]]:
    """Token ids of the turn's different candidates, the gold response first; nothing where it has none."""
    gold = (turn.turn.response or "").strip()
    others = [text.strip() for text in turn.turn.candidates]
    if not others:
        return {}
    if gold not in others:
        place = f" (line {turn.turn.line})" if turn.turn.line else ""
        raise DataError(
            f"dialogue {turn.dialogue.id!r}, turn {turn.span.turn}{place}: the candidates do not hold the response "
            f"{gold!r}; put it among them, or evaluate without ranking"
        )
    candidates = {text: model.encoder.response_ids(text) for text in dict.fromkeys([gold, *others])}
    needed = model.prompts.length + turn.span.context_length + max(map(len, candidates.values()))
    window = model.backbone.window
    if window is not None and needed > window:
        raise DataError(
            f"dialogue {turn.dialogue.id!r}, turn {turn.span.turn}: prompt, context and the longest candidate need "
            f"{needed} places, the base model's window is {window}; shorten the candidate, or evaluate without ranking"
        )
    return candidates


class _Ranker:
    def __init__(self, model: SPTModel, how: Reranking, way: Way) -> None:
        self.model, self.weights, self.way = model, how.weights, way
        self.priors = Priors(model, how.sampling.prior, way=way)

    @torch.no_grad()
    def rank(self, tasks: Sequence[_Task]) -> list[TurnRank]:
        """Ranks of turns that are read from one sequence: each prompt that has a weight runs it once."""
        model, stop = self.model, self.model.encoder.stop_id
        # each scored once, so that equal tokens tie
        unique = [list(dict.fromkeys(task.candidates.values())) for task in tasks]
        found: list[list[list[Tensor]]] = [[] for _ in tasks]  # task -> prompt with a weight -> candidate -> (m,)
        for prompt in range(model.prompts.count):
            members = [n for n, task in enumerate(tasks) if task.weights[prompt]]
            if not members:
                continue
            longest = max((tasks[n].turn.context_ids for n in members), key=len)
            prefix = run_prefix(model.backbone, prompted(model, longest, prompt=prompt), way=self.way)
            for n in members:
                context = model.prompts.length + tasks[n].turn.span.context_length
                own = token_logprobs(model.backbone, prefix, unique[n], context=context, stop_id=stop, way=self.way)
                found[n].append(own)
        return [self._rank(task, ids, each) for task, ids, each in zip(tasks, unique, found, strict=True)]

    def _rank(self, task: _Task, ids: Sequence[tuple[int, ...]], each: Sequence[Sequence[Tensor]]) -> TurnRank:
        speakers = [k for k, weight in enumerate(task.weights) if weight]
        used = [task.weights[k] for k in speakers]
        stacked = [torch.stack(logprobs) for logprobs in zip(*each, strict=True)]  # of (K', m)
        priors = [prior_logprob(own, used) for own in self.priors.logprobs(speakers, ids)]
        likelihood = {
            tokens: self._likelihood(logprobs, used, prior)
            for tokens, logprobs, prior in zip(ids, stacked, priors, strict=True)
        }
        persona = self.weights.persona
        gold, *others = (
            likelihood[tokens] + (persona * recalled(text, task.turn.dialogue.persona) if persona else 0.0)
            for text, tokens in task.candidates.items()
        )
        where = (task.turn.dialogue.id, task.turn.span.turn)
        if any(map(math.isnan, (gold, *others))):
            raise ModelError(
                f"dialogue {where[0]!r}, turn {where[1]}: the model gives a log-probability that is not a "
                "number; evaluate with --dtype float32, and check the adapter"
            )
        return TurnRank(*where, 1 + sum(other >= gold for other in others), len(task.candidates))

    def _likelihood(self, logprobs: Tensor, weights: Sequence[float], prior: float | None) -> float:
        """Of a candidate with log-probabilities (K', m); -inf for one without any token."""
        tokens = logprobs.shape[1]
        if not tokens:
            return -math.inf
        given = float(response_logprob(logprobs, weights, kind=self.weights.likelihood))
        return informative_likelihood(given, prior, tokens, self.weights)
