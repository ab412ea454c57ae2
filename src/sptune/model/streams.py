"""Replies that are generated side by side, each from its own mixture of prompts.

The next token of a stream comes from `sum_k w_k p(token | [SP_k; context; tokens so far])`: all weight on one prompt is
that prompt alone, equal weights are fused decoding, the softmax of the retriever's scores is gated decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sptune.model.ngrams import completions
from sptune.model.sampling import pick, uniform

if TYPE_CHECKING:
    from sptune.model.spt import SPTModel

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """One reply to be generated.

    Attributes:
        context: number of its context.
        weights: K weights of the prompts, which sum to 1; a prompt of weight 0 is not run.
        temperature: 0 is greedy; above it, sampling from the mixture.
        seed: of its draws, which depend on nothing else.
    """

    context: int
    weights: tuple[float, ...]
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for the replies of all streams.

    Attributes:
        max_new_tokens: the most tokens of a reply.
        top_p: nucleus probability, in sampling.
        no_repeat_ngram_size: forbid repeating n-grams of that size within a reply; 0 is off.
        no_repeat_history_ngram: forbid n-grams of that size that the speaker said earlier in the dialogue; 0 is off.
        ends: tokens that end a reply.
    """

    max_new_tokens: int
    top_p: float = 1.0
    no_repeat_ngram_size: int = 0
    no_repeat_history_ngram: int = 0
    ends: Tokens = ()


def end_tokens(model: SPTModel) -> Tokens:
    """What ends a reply: the learned stop, or the base model's own end of sequence where none is learned."""
    if model.encoder.stop_id is not None:
        return (model.encoder.stop_id,)
    own: Any = model.backbone.model.generation_config.eos_token_id
    return (own,) if isinstance(own, int) else tuple(own or ())


class Speech:
    """The tokens of streams as they come: mixes the prompts' distributions, forbids, picks, and sees who has ended.

    Args:
        streams: what is generated.
        rules: for all of them.
        said: for each context, the tokens of the speaker's earlier responses; nothing where it does not matter.
    """

    def __init__(self, streams: Sequence[Stream], rules: Rules, said: Sequence[Sequence[Tokens]] = ()) -> None:
        self.streams = streams
        self.rules = rules
        self.replies: list[list[int]] = [[] for _ in streams]
        self.going = list(range(len(streams)))
        self._said = said
        self._draws = uniform([stream.seed for stream in streams], rules.max_new_tokens)  # (S, steps)
        self._temperature = torch.tensor([stream.temperature for stream in streams])

    def step(self, logits: Tensor, *, stream: Tensor, weight: Tensor) -> dict[int, int]:
        """Give every stream that is still going its next token.

        Args:
            logits: (E, V) of every such stream under every prompt of its mixture.
            stream: (E,) the stream of each row.
            weight: (E,) the weight of each row; those of a stream sum to 1.

        Returns:
            The tokens of the streams that go on; the others have ended.
        """
        mixed = self._mixed(logits.float().softmax(1), stream, weight)  # (A, V)
        for row, number in enumerate(self.going):
            if banned := self._banned(number):
                mixed[row, list(banned)] = 0.0
        place, done = mixed.device, len(self.replies[self.going[0]])
        tokens = pick(
            mixed,
            temperature=self._temperature[self.going].to(place),
            draw=self._draws[self.going, done].to(place),
            top_p=self.rules.top_p,
        )
        new = dict(zip(self.going, tokens.tolist(), strict=True))
        new = {number: token for number, token in new.items() if token not in self.rules.ends}
        for number, token in new.items():
            self.replies[number].append(token)
        self.going = list(new) if done + 1 < self.rules.max_new_tokens else []
        return new

    def _mixed(self, probs: Tensor, stream: Tensor, weight: Tensor) -> Tensor:
        """(A, V) the weighted sums of rows (E, V)."""
        row = torch.searchsorted(torch.tensor(self.going, device=stream.device), stream)  # (E,)
        if len(self.going) == len(stream):  # one prompt each: nothing to mix
            return probs[row.argsort()]
        mixed = probs.new_zeros(len(self.going), probs.shape[1])
        return mixed.index_add_(0, row, probs.mul_(weight[:, None]))

    def _banned(self, number: int) -> set[int]:
        tokens, rules = self.replies[number], self.rules
        own = completions(tokens, [tokens], rules.no_repeat_ngram_size)
        if not self._said:
            return own
        return own | completions(tokens, self._said[self.streams[number].context], rules.no_repeat_history_ngram)
