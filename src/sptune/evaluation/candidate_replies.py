"""Makes candidate replies: draws several for each turn, and measures each under every prompt and without its context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch

from sptune.errors import UsageError
from sptune.evaluation.batches import padded_batches, sharing_batches
from sptune.evaluation.generation import is_unfinished
from sptune.evaluation.priors import Prior, Priors
from sptune.evaluation.rerank import (
    Candidate,
    RerankWeights,
    Similarity,
    TurnCandidates,
    consensus,
    recalled,
)
from sptune.model.generate import said_in
from sptune.model.mixture import mixed_logprobs, mixture_weights, one_hot
from sptune.model.packed import generate_packed
from sptune.model.padded import generate_padded
from sptune.model.prefix import Prefixes, find_way, token_logprobs
from sptune.model.sampling import draw_seed
from sptune.model.streams import Rules, Speech, Stream

if TYPE_CHECKING:
    from sptune.evaluation.turns import ChosenTurn, Progress
    from sptune.model.spt import SPTModel

Source = Literal["top1", "each", "drawn", "fused", "gated"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which candidates are drawn for a turn, and what is measured of them.

    Attributes:
        candidates: m, how many in all.
        greedy: how many of them are greedy: that of `source` itself first, then those of the prompts, best score first.
        source: where the others are sampled from: the chosen prompt (`top1`), all prompts in turn (`each`), a prompt
            drawn from the gate for each sample (`drawn`), or at every token the average of the K distributions
            (`fused`), or their gated average (`gated`). The last two cost K times as much.
        temperature: of the samples.
        top_p: nucleus probability of the samples.
        prior: what gives the log-probability without the context: the prompts whose likelihood counts, before an empty
            context (`prompt`), the base model alone before an empty context (`bare`), or nothing (`none`).
        similarity: of the consensus.
        seed: of the draws; each candidate of each turn has its own, whatever else is drawn.
    """

    candidates: int = 16
    greedy: int = 1
    source: Source = "drawn"
    temperature: float = 1.0
    top_p: float = 0.9
    prior: Prior = "prompt"
    similarity: Similarity = "rouge"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        checks = {
            "candidates": (self.candidates >= 1, "at least 1"),
            "greedy": (self.greedy >= 0, "0 or more"),
            "source": (self.source in get_args(Source), f"one of {', '.join(get_args(Source))}"),
            "temperature": (self.temperature > 0, "a number above 0"),
            "top_p": (0 < self.top_p <= 1, "a number above 0 and at most 1"),
            "prior": (self.prior in get_args(Prior), f"one of {', '.join(get_args(Prior))}"),
            "similarity": (self.similarity in get_args(Similarity), f"one of {', '.join(get_args(Similarity))}"),
        }
        for name, (good, allowed) in checks.items():
            if not good:
                raise UsageError(f"{name}: {getattr(self, name)!r} is out of range; give {allowed}")


@dataclass(frozen=True, slots=True)
class Reranking:
    """Sample and rerank: which candidates are drawn, and what chooses among them."""

    sampling: Sampling = field(default_factory=Sampling)
    weights: RerankWeights = field(default_factory=RerankWeights)

    def __post_init__(self) -> None:
        """Refuse a weight of what is not measured."""
        if self.weights.prior and self.sampling.prior == "none":
            raise UsageError("prior: none was asked for, but it has a weight; set the weight to 0, or prior to prompt")

    def alone(self) -> Reranking:
        """The same where a prompt is forced, or drawn whatever its score: it alone draws the candidates and weighs them."""
        sampling = replace(self.sampling, source="top1", greedy=min(self.sampling.greedy, 1))
        return Reranking(sampling, replace(self.weights, likelihood="top1"))


def make_candidates(
    model: SPTModel,
    turns: Sequence[ChosenTurn],
    *,
    sampling: Sampling,
    rules: Rules,
    gate_temperature: float = 0.1,
    token_budget: int = 8192,
    progress: Progress | None = None,
) -> Iterator[list[TurnCandidates]]:
    """The candidates of all turns, batch by batch, in the order of `turns`. They do not depend on the batches.

    Args:
        model: the model.
        turns: from `choose_prompts`; neighbouring turns of one dialogue share the run over its context.
        sampling: which candidates.
        rules: what holds for each of them; its `top_p` is that of `sampling`.
        gate_temperature: tau of the gate `pi_k = softmax_k(s_ik / tau)`.
        token_budget: the most tokens of a batch: virtual, context and new tokens of every row.
        progress: called at the start and after every batch, once the batch was taken.
    """
    maker = _Maker(model, sampling, replace(rules, top_p=sampling.top_p), gate_temperature)
    done = 0
    if progress:
        progress("candidates", 0, len(turns))
    for batch in maker.batches(turns, token_budget):
        yield maker.make(batch)
        done += len(batch)
        if progress:
            progress("candidates", done, len(turns))


class _Maker:
    def __init__(self, model: SPTModel, sampling: Sampling, rules: Rules, gate_temperature: float) -> None:
        self.model, self.sampling, self.rules, self.gate_temperature = model, sampling, rules, gate_temperature
        self.count = model.prompts.count
        self.way = find_way(model.backbone)
        self.priors = Priors(model, sampling.prior, way=self.way)

    def batches(self, turns: Sequence[ChosenTurn], budget: int) -> Iterator[list[ChosenTurn]]:
        """`turns` in batches whose rows fit the budget."""
        length, order = self.model.prompts.length, range(len(turns))
        speakers = self.count if self.sampling.source in ("fused", "gated") else 1
        rows, new = self.sampling.candidates * speakers, self.rules.max_new_tokens
        if self.way == "packed":
            found = sharing_batches(turns, order, runs=self.count, prompt=length, new=rows * new, budget=budget)
        else:
            found = padded_batches(turns, order, rows=rows, room=length + new, budget=budget)
        return ([turns[n] for n in members] for members in found)

    def make(self, turns: Sequence[ChosenTurn]) -> list[TurnCandidates]:
        contexts = [turn.context_ids for turn in turns]
        prefixes = Prefixes(self.model, contexts, [range(self.count)] * len(turns), way=self.way)
        gates = [mixture_weights(turn.selection, kind="gated", temperature=self.gate_temperature) for turn in turns]
        drawn = [self._streams(n, turn, gate) for n, (turn, gate) in enumerate(zip(turns, gates, strict=True))]
        said = [said_in(self.model, turn.dialogue.context(turn.span.turn)) for turn in turns]
        speech = Speech([stream for own in drawn for stream in own], self.rules, said)
        packed = self.way == "packed"
        spoken = (
            generate_packed(self.model, prefixes, speech) if packed else generate_padded(self.model, contexts, speech)
        )
        tokens = iter(spoken)
        made = []
        for n, turn in enumerate(turns):
            replies = [(stream, next(tokens)) for stream in drawn[n]]
            made.append(self._turn(turn, gates[n], self._candidates(turn, replies, prefixes, gates[n])))
        return made

    def _streams(self, n: int, turn: ChosenTurn, gate: tuple[float, ...]) -> list[Stream]:
        wanted, scores = self.sampling, turn.selection.scores
        best_first = [one_hot(k, self.count) for k in sorted(range(self.count), key=lambda k: -scores[k])]
        own = {
            "top1": one_hot(turn.selection.prompt, self.count),
            "fused": (1 / self.count,) * self.count,
            "gated": gate,
        }.get(wanted.source)
        greedy = list(dict.fromkeys([own, *best_first] if own else best_first))[: min(wanted.greedy, wanted.candidates)]
        streams = [Stream(n, weights) for weights in greedy]
        for number in range(wanted.candidates - len(greedy)):
            seed = draw_seed(wanted.seed, turn.dialogue.id, turn.span.turn, number)
            if wanted.source == "drawn":
                draw = torch.Generator().manual_seed(draw_seed(seed, "prompt"))
                weights = one_hot(int(torch.multinomial(torch.tensor(gate), 1, generator=draw)), self.count)
            else:
                weights = own or best_first[number % self.count]
            streams.append(Stream(n, weights, wanted.temperature, seed))
        return streams

    def _candidates(
        self,
        turn: ChosenTurn,
        replies: Sequence[tuple[Stream, list[int]]],
        prefixes: Prefixes,
        gate: tuple[float, ...],
    ) -> Iterator[Candidate]:
        """The measured candidates of a turn; equal texts are measured once."""
        texts = [self.model.text(tokens) for _, tokens in replies]
        unique = list(dict.fromkeys(texts))
        ids = [self.model.encoder.response_ids(text) for text in unique]
        number = replies[0][0].context
        context = prefixes.places(number)
        backbone, stop = self.model.backbone, self.model.encoder.stop_id
        each = [
            token_logprobs(backbone, prefixes.run(number, k), ids, context=context, stop_id=stop, way=self.way)
            for k in range(self.count)
        ]
        logprobs = dict(zip(unique, (torch.stack(rows) for rows in zip(*each, strict=True)), strict=True))  # (K, m)
        priors = dict(zip(unique, self.priors.logprobs(range(self.count), ids), strict=True))
        agreement = consensus(texts, self.sampling.similarity)
        for (stream, tokens), text, agreed in zip(replies, texts, agreement, strict=True):
            own = logprobs[text]
            yield Candidate(
                text=text,
                prompt=stream.weights.index(1.0) if 1.0 in stream.weights else None,
                temperature=stream.temperature,
                generated=len(tokens),
                tokens=own.shape[1],
                logprobs=tuple(own.sum(1).tolist()),
                fused_logprob=float(mixed_logprobs(own, (1 / self.count,) * self.count).sum()),
                gated_logprob=float(mixed_logprobs(own, gate).sum()),
                prior_logprobs=priors[text],
                consensus=agreed,
                persona_recall=recalled(text, turn.dialogue.persona),
                unfinished=is_unfinished(self.model, tokens, self.rules.max_new_tokens),
            )

    @staticmethod
    def _turn(turn: ChosenTurn, gate: tuple[float, ...], candidates: Iterator[Candidate]) -> TurnCandidates:
        return TurnCandidates(
            dialogue=turn.dialogue.id,
            turn=turn.span.turn,
            persona=turn.dialogue.persona,
            user=turn.turn.user,
            reference=turn.turn.response or "",
            prompt=turn.selection.prompt,
            scores=turn.selection.scores,
            margin=turn.selection.margin,
            gate=gate,
            candidates=tuple(candidates),
        )
