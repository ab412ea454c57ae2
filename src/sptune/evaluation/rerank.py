"""Choosing among candidate replies: likelihood, mutual information, consensus and persona recall, weighed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sptune.errors import UsageError
from sptune.evaluation.metrics.f1 import unigram_f1
from sptune.evaluation.metrics.persona import persona_recall
from sptune.evaluation.metrics.rouge import rouge
from sptune.model.mixture import Likelihood, one_hot
from sptune.text import chrf, sentence_bleu

Similarity = Literal["f1", "rouge", "bleu", "chrf"]

_MOST = {"length_power": 10.0, "prior": 1e6, "consensus": 1e6, "persona": 1e6}  # larger weights leave a float's range
_SMALLEST = 5e-324  # the gate may give all its weight to a prompt under which a candidate is next to impossible


def _rouge(text: str, other: str) -> float:
    """Mean of ROUGE-1 and ROUGE-2, percent: agreement in words and in pairs of words."""
    found = rouge(text, other)
    return (found.rouge1 + found.rouge2) / 2


_SIMILARITIES: dict[str, Callable[[str, str], float]] = {
    "f1": unigram_f1,
    "rouge": _rouge,
    "bleu": sentence_bleu,
    "chrf": chrf,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate reply, with all that a choice can weigh.

    Attributes:
        text: the reply, cut at the model's stops; may be empty.
        prompt: the prompt it was drawn from; None where it was drawn from a mixture.
        temperature: 0 for a greedy reply.
        generated: new tokens, before the cut.
        tokens: tokens of the text, the stop token included where one is learned.
        logprobs: K log-probabilities of the text given the context, nats, summed: one under each prompt.
        fused_logprob: the same under the average of the K distributions at every token.
        gated_logprob: the same under their average weighted by the gate.
        prior_logprobs: summed log-probability of the text without the context: under each of the K prompts, or a single one, under the bare
            model; None where it was not asked for.
        consensus: mean similarity to the turn's other candidates, 0..1.
        persona_recall: share of the persona's content words that it holds, 0..1.
        unfinished: whether it came to no end, as in `Generation`.
    """

    text: str
    prompt: int | None
    temperature: float
    generated: int
    tokens: int
    logprobs: tuple[float, ...]
    fused_logprob: float
    gated_logprob: float
    prior_logprobs: tuple[float, ...] | None
    consensus: float
    persona_recall: float
    unfinished: bool | None = None


@dataclass(frozen=True, slots=True)
class TurnCandidates:
    """All candidates of one turn. A line of `candidates.jsonl` is this object in JSON.

    Attributes:
        dialogue: id of its dialogue.
        turn: number of the turn in its dialogue, from 0.
        persona: the sentences about the speaker.
        user: the last message of the context.
        reference: the gold response.
        prompt: the prompt that the selection rule chose.
        scores: K scores of the prompts.
        margin: best score minus second best.
        gate: K weights of the prompts in the gated mixture.
        candidates: in the order in which they were drawn, repeated texts included; at least one.
    """

    dialogue: str
    turn: int
    persona: tuple[str, ...]
    user: str
    reference: str
    prompt: int
    scores: tuple[float, ...]
    margin: float
    gate: tuple[float, ...]
    candidates: tuple[Candidate, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be weighed, as a damaged file may hold it.

        Raises:
            ValueError: no candidates, a prompt that there is not, or figures of another number of prompts.
        """
        count = len(self.scores)
        prompts = [self.prompt, *(one.prompt for one in self.candidates if one.prompt is not None)]
        priors = [len(one.prior_logprobs) for one in self.candidates if one.prior_logprobs is not None]
        figures = [len(self.gate), *(len(one.logprobs) for one in self.candidates), *(n for n in priors if n != 1)]
        if not self.candidates:
            raise ValueError("candidates: there is none")
        if wrong := [prompt for prompt in prompts if not 0 <= prompt < count]:
            raise ValueError(f"prompt: there is no prompt {wrong[0]}, scores has {count}")
        if wrong := [number for number in figures if number != count]:
            raise ValueError(f"gate, logprobs and prior_logprobs: {wrong[0]} figures, scores has {count}")


@dataclass(frozen=True, slots=True)
class RerankWeights:
    """What a candidate's score weighs.

    Attributes:
        likelihood: whose likelihood counts: of the chosen prompt (`top1`), of the average of the K distributions at
            every token (`fused`), of their gated average (`gated`), or of one prompt drawn from the gate (`mixture`).
        length_power: alpha; log-probabilities are divided by tokens^alpha. 0 sums, 1 takes the mean per token.
        prior: lambda, weight of the log-probability without the context, of those whose likelihood counts (mutual information).
        consensus: mu, weight of the mean similarity to the other candidates (minimum Bayes risk).
        persona: rho, weight of the persona recall.
    """

    likelihood: Likelihood = "gated"
    length_power: float = 1.0
    prior: float = 0.75
    consensus: float = 40.0
    persona: float = 0.0

    def __post_init__(self) -> None:
        """Refuse weights that give no score."""
        if self.likelihood not in get_args(Likelihood):
            raise UsageError(f"likelihood: {self.likelihood!r} is not one of {', '.join(get_args(Likelihood))}")
        for name, most in _MOST.items():
            if not abs(getattr(self, name)) <= most:
                raise UsageError(
                    f"{name}: {getattr(self, name)} is no weight; give a number from {-most:.0f} to {most:.0f}"
                )


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate that was chosen.

    Attributes:
        index: its number among the candidates.
        score: its score.
    """

    index: int
    score: float


def rerank(turn: TurnCandidates, weights: RerankWeights) -> Choice:
    """The best candidate of a turn, the first of equals; needs no model.

    `(log p(r | C) - lambda log p(r)) / |r|^alpha + mu consensus(r) + rho persona_recall(r)`

    Args:
        turn: its candidates.
        weights: lambda, alpha, mu, rho, and whose likelihood counts.

    Raises:
        UsageError: a prior has a weight, but the candidates hold none.

    >>> one = Candidate("no .", 0, 0.0, 3, 3, (-3.0,), -3.0, -3.0, (-2.0,), 0.2, 0.0)
    >>> two = Candidate("i keep bees .", 0, 1.0, 5, 5, (-10.0,), -10.0, -10.0, (-20.0,), 0.1, 0.5)
    >>> turn = TurnCandidates("a", 0, ("i keep bees .",), "hi", "i keep bees", 0, (1.0,), 0.0, (1.0,), (one, two))
    >>> rerank(turn, RerankWeights(prior=0.0, consensus=0.0)), rerank(turn, RerankWeights(prior=0.5, consensus=0.0))
    (Choice(index=0, score=-1.0), Choice(index=1, score=0.0))
    """
    scores = [candidate_score(turn, candidate, weights) for candidate in turn.candidates]
    best = max(range(len(scores)), key=scores.__getitem__)
    return Choice(best, scores[best])


def candidate_score(turn: TurnCandidates, candidate: Candidate, weights: RerankWeights) -> float:
    """The score of one candidate of `turn`; see `rerank`."""
    count = len(turn.scores)
    given, speakers = {
        "top1": (candidate.logprobs[turn.prompt], one_hot(turn.prompt, count)),
        "fused": (candidate.fused_logprob, (1 / count,) * count),
        "gated": (candidate.gated_logprob, turn.gate),
        "mixture": (_mixture_logprob(candidate.logprobs, turn.gate), turn.gate),
    }[weights.likelihood]
    prior = prior_logprob(candidate.prior_logprobs, speakers)
    likelihood = informative_likelihood(given, prior, candidate.tokens, weights)
    return likelihood + weights.consensus * candidate.consensus + weights.persona * candidate.persona_recall


def prior_logprob(logprobs: Sequence[float] | None, speakers: Sequence[float]) -> float | None:
    """Log-probability of a whole reply without its context, `log sum_k w_k p_k(r)`, nats.

    Args:
        logprobs: under each of the prompts; a single one is that of the bare model, whoever speaks.
        speakers: weights of the prompts, which sum to 1.

    >>> prior_logprob((-1.0, -1.0, -9.0), (0.5, 0.5, 0.0)), prior_logprob((-2.0,), (0.5, 0.5))
    (-1.0, -2.0)
    """
    if logprobs is None:
        return None
    return logprobs[0] if len(logprobs) == 1 else _mixture_logprob(logprobs, speakers)


def informative_likelihood(given: float, prior: float | None, tokens: int, weights: RerankWeights) -> float:
    """What a reply's likelihood adds to its score: `(log p(r | C) - lambda log p(r)) / |r|^alpha`, nats.

    Args:
        given: log-probability given the context, summed over its tokens.
        prior: the same without the context; None where it was not measured.
        tokens: of the reply.
        weights: lambda and alpha.

    Raises:
        UsageError: a prior has a weight, but there is none.
    """
    if weights.prior and prior is None:
        raise UsageError(
            "prior: these candidates hold no log-probability without the context; make them with prior=prompt, or set the weight to 0"
        )
    return (given - weights.prior * (prior or 0.0)) / float(max(1, tokens) ** weights.length_power)


def _mixture_logprob(logprobs: Sequence[float], gate: Sequence[float]) -> float:
    best = max(logprobs)
    shares = (weight * math.exp(value - best) for value, weight in zip(logprobs, gate, strict=True))
    return best + math.log(max(math.fsum(shares), _SMALLEST))


def consensus(texts: Sequence[str], similarity: Similarity = "f1") -> list[float]:
    """Mean similarity of each text to the others, 0..1, which are the hypotheses' references; 0 for a text alone.

    >>> consensus(["i sail", "i sail", "no"])
    [0.5, 0.5, 0.0]
    """
    measure = _SIMILARITIES[similarity]
    found: dict[tuple[str, str], float] = {}
    for first in set(texts):
        for second in set(texts):
            found[first, second] = measure(first, second) / 100.0
    others = max(1, len(texts) - 1)
    return [(sum(found[text, other] for other in texts) - found[text, text]) / others for text in texts]


def recalled(text: str, persona: tuple[str, ...]) -> float:
    """Share of the persona's content words that `text` holds, 0..1.

    >>> recalled("a dog !", ("my dog is old .",))
    0.5
    """
    return persona_recall([text], [persona]) / 100.0
