"""Teacher-forced likelihood of the gold responses under every prompt, and the figures made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sptune.data.batch import TokenBatch, collate
from sptune.data.packing import TokenBudgetSampler
from sptune.errors import ModelError
from sptune.evaluation.turns import by_sequence
from sptune.losses import example_tokens
from sptune.model.figures import SelectionFigures, selection_figures
from sptune.model.mixture import mixed_logprobs, mixture_weights

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.evaluation.turns import ChosenTurn, Progress
    from sptune.model.selection import Selection
    from sptune.model.spt import SPTModel

_LARGEST = 700.0  # nats; e^709 is the largest double


@dataclass(frozen=True, slots=True)
class TurnScore:
    """How likely one gold response is.

    Attributes:
        dialogue: id of its dialogue.
        turn: number of the turn in its dialogue, from 0.
        tokens: response tokens, the stop token included where one is learned.
        bytes: UTF-8 bytes of the response's text; the stop has none.
        logprobs: K log-probabilities of the response, nats, summed over its tokens: one under each prompt.
        fused_logprob: the same under the average of the K distributions at every token.
        selection: the prompt chosen for the context.
        gated_logprob: the same under their average weighted by the gate `pi_k = softmax_k(s_ik / tau)`; None in
            evaluations made before it was measured, and where a robustness test put noise on the scores.
        mixture_logprob: `log sum_k pi_k p_k(R)`: one prompt, drawn from the gate, speaks the whole response; or None.
    """

    dialogue: str
    turn: int
    tokens: int
    bytes: int
    logprobs: tuple[float, ...]
    fused_logprob: float
    selection: Selection
    gated_logprob: float | None = None
    mixture_logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Perplexities `exp(-sum log p / sum tokens)` over all response tokens, stop tokens included where one is learned.

    Attributes:
        turns: how many responses.
        tokens: their tokens.
        bytes: UTF-8 bytes of their text.
        perplexity: under the prompt chosen for each turn.
        bits_per_byte: `-sum log2 p / bytes` under the chosen prompt. The stop tokens cost bits, but have no bytes.
        prompt_perplexity: K, under each prompt alone.
        best_prompt: the prompt with the lowest of them, in hindsight.
        best_prompt_perplexity: its perplexity: what choosing the same prompt for every turn can reach.
        random_perplexity: expected of a random prompt a turn: `exp` of the mean over prompts of the loss per token.
        oracle_perplexity: under the best prompt of each turn, in hindsight. Not a target: the context does not tell it.
        fused_perplexity: under the average of the K distributions at every token.
        gated_perplexity: under their average weighted by the gate; None in evaluations made before it was measured.
        mixture_perplexity: of whole responses, each by one prompt drawn from the gate; None likewise.
    """

    turns: int
    tokens: int
    bytes: int
    perplexity: float
    bits_per_byte: float
    prompt_perplexity: tuple[float, ...]
    best_prompt: int
    best_prompt_perplexity: float
    random_perplexity: float
    oracle_perplexity: float
    fused_perplexity: float
    gated_perplexity: float | None = None
    mixture_perplexity: float | None = None


def score_turns(
    model: SPTModel,
    turns: Sequence[ChosenTurn],
    *,
    gate_temperature: float = 0.1,
    token_budget: int = 8192,
    progress: Progress | None = None,
) -> list[TurnScore]:
    """Score every turn's gold response under every prompt, in packed batches.

    Args:
        model: the model.
        turns: from `choose_prompts`: all turns of each sequence.
        gate_temperature: tau of the gate.
        token_budget: the most tokens of a forward pass, all K prompts and padding included; a longer sequence is alone.
        progress: called at the start and after every batch.

    Returns:
        One score a turn, in the order of `turns`, whatever the batches.

    Raises:
        ModelError: the model gives a log-probability that is not finite.
    """
    groups = list(by_sequence(turns))
    lengths = [model.prompts.length + len(group[0].sequence.input_ids) for group in groups]
    sampler = TokenBudgetSampler(lengths, budget=max(1, token_budget // model.prompts.count), shuffle=False)
    scored: dict[int, list[TurnScore]] = {}
    done = 0
    if progress:
        progress("likelihood", done, len(turns))
    for members in sampler:
        batch = collate([groups[i][0].sequence for i in members], stop_id=model.encoder.stop_id)
        chosen = [turn for i in members for turn in groups[i]]
        scores = iter(_score_batch(model, batch, chosen, gate_temperature))
        for i in members:
            scored[i] = [next(scores) for _ in groups[i]]
        done += len(chosen)
        if progress:
            progress("likelihood", done, len(turns))
    return [score for i in range(len(groups)) for score in scored[i]]


@torch.no_grad()
def _score_batch(
    model: SPTModel, batch: TokenBatch, turns: Sequence[ChosenTurn], gate_temperature: float
) -> list[TurnScore]:
    output = model(batch.to(model.backbone.device))
    logprobs: Tensor = output.target_logprobs.cpu().double()  # (K, N)
    tokens = example_tokens(batch.target_example, batch.examples).tolist()
    scores = []
    for turn, own in zip(turns, torch.split(logprobs, tokens, dim=1), strict=True):
        if not bool(own.isfinite().all()):
            raise ModelError(
                f"dialogue {turn.dialogue.id!r}, turn {turn.span.turn}: the model gives a log-probability that is not "
                "finite; evaluate with --dtype float32, and check the adapter"
            )
        gate = mixture_weights(turn.selection, kind="gated", temperature=gate_temperature)
        scores.append(
            TurnScore(
                dialogue=turn.dialogue.id,
                turn=turn.span.turn,
                tokens=own.shape[1],
                bytes=turn.span.response_bytes,
                logprobs=tuple(own.sum(1).tolist()),
                fused_logprob=float(mixed_logprobs(own, (1 / len(own),) * len(own)).sum()),
                selection=turn.selection,
                gated_logprob=float(mixed_logprobs(own, gate).sum()),
                mixture_logprob=float(mixed_logprobs(own.sum(1), gate)),
            )
        )
    return scores


def likelihood(scores: Sequence[TurnScore]) -> Likelihood:
    """The perplexities of `scores`, at least one.

    Two responses of 2 tokens and 8 bytes cost, under two prompts, (2, 4) and (6, 2) nats; the first prompt is chosen
    for both. Chosen: exp(8/4); each: exp(8/4), exp(6/4); random: exp(7/4); oracle: exp(4/4); bits: 8 / ln 2 / 16.

    >>> from sptune.model.selection import Selection
    >>> first = Selection(0, (1.0, 0.0), 1.0)
    >>> two = [TurnScore("a", n, 2, 8, costs, -2.0, first) for n, costs in enumerate([(-2.0, -4.0), (-6.0, -2.0)])]
    >>> got = likelihood(two)
    >>> [round(math.log(value), 6) for value in (got.perplexity, got.random_perplexity, got.oracle_perplexity)]
    [2.0, 1.75, 1.0]
    >>> round(got.bits_per_byte, 4)
    0.7213
    """
    tokens = sum(score.tokens for score in scores)
    size = sum(score.bytes for score in scores)
    count = len(scores[0].logprobs)
    chosen = -math.fsum(score.logprobs[score.selection.prompt] for score in scores)
    each = [-math.fsum(score.logprobs[k] for score in scores) for k in range(count)]
    oracle = -math.fsum(max(score.logprobs) for score in scores)
    fused = -math.fsum(score.fused_logprob for score in scores)
    gated = [score.gated_logprob for score in scores]
    mixture = [score.mixture_logprob for score in scores]
    best = min(range(count), key=each.__getitem__)
    return Likelihood(
        turns=len(scores),
        tokens=tokens,
        bytes=size,
        perplexity=perplexity_of(chosen, tokens),
        bits_per_byte=chosen / math.log(2) / max(1, size),
        prompt_perplexity=tuple(perplexity_of(cost, tokens) for cost in each),
        best_prompt=best,
        best_prompt_perplexity=perplexity_of(each[best], tokens),
        random_perplexity=perplexity_of(math.fsum(each) / count, tokens),
        oracle_perplexity=perplexity_of(oracle, tokens),
        fused_perplexity=perplexity_of(fused, tokens),
        gated_perplexity=_measured_perplexity(gated, tokens),
        mixture_perplexity=_measured_perplexity(mixture, tokens),
    )


def selection_quality(scores: Sequence[TurnScore]) -> SelectionFigures:
    """How well the prompts were chosen; each turn weighs the same, whatever its length."""
    nll = torch.tensor(
        [[-value / max(1, score.tokens) for value in score.logprobs] for score in scores], dtype=torch.double
    )  # (n, K)
    gaps = torch.tensor([score.selection.scores for score in scores], dtype=torch.double)  # (n, K)
    return selection_figures(gaps, nll, chosen=torch.tensor([score.selection.prompt for score in scores]))


def _measured_perplexity(logprobs: Sequence[float | None], tokens: int) -> float | None:
    known = [value for value in logprobs if value is not None]
    return perplexity_of(-math.fsum(known), tokens) if len(known) == len(logprobs) else None


def perplexity_of(nll: float, tokens: int) -> float:
    """`exp` of a cost in nats per token; finite however bad it is."""
    return math.exp(min(nll / max(1, tokens), _LARGEST))
