"""The dense retriever: scores each context against each soft prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor, nn

from sptune.errors import RecipeError
from sptune.model.seeding import seeded

RetrieverKind = Literal["linear", "transformer", "mlp", "identity"]
RetrieverInput = Literal["mean", "recent", "hidden"]
ScoreActivation = Literal["softplus", "relu", "leaky_relu", "none"]
HEADS = 4  # of the transformer kind, as published
MOST_HALF_LIVES = 32  # what is older weighs less than 2^-32 in all
LONGEST_HALF_LIFE = 1e6  # tokens
AGES = 32  # that are read at a time


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the retriever reads of n contexts: token embeddings, of context tokens only.

    Attributes:
        embeddings: (B, T, D) word embeddings of the sequences, without gradient.
        row: (n,) the sequence of each context.
        length: (n,) tokens of each context, counted from the start of its sequence, or from `start`.
        start: (n,) first token of each context; where padding stands on the left it is not 0.
        hidden: (B, T, H) last hidden states of the bare model over the sequences, where the retriever reads them.
    """

    embeddings: Tensor
    row: Tensor
    length: Tensor
    start: Tensor | None = None
    hidden: Tensor | None = None

    def means(self) -> Tensor:
        """(n, D) float32 mean embedding of each context.

        Sums in float64 (float32 on Apple GPUs, which have no float64), so that a context's mean does not depend on its batch; a running one
        where a sequence has several contexts, which then cost one pass.
        """
        if len(self.row) <= len(self.embeddings):
            return self._sums_apart().div_(self.length[:, None]).float()
        sums = self.embeddings.to(self._exact).cumsum(1)  # (B, T, D)
        end = self._start() + self.length
        total = sums[self.row, end - 1]  # (n, D)
        before = torch.where((self._start() > 0)[:, None], sums[self.row, (self._start() - 1).clamp(min=0)], 0.0)
        return ((total - before) / self.length[:, None]).float()

    def _sums_apart(self) -> Tensor:
        """(n, D) exact sum of each context's embeddings, each by itself."""
        spans = zip(self.row.tolist(), self._start().tolist(), self.length.tolist(), strict=True)
        return torch.stack(
            [self.embeddings[row, start : start + length].sum(0, dtype=self._exact) for row, start, length in spans]
        )

    def recent(self, half_life: float) -> Tensor:
        """(n, D) float32 mean embedding with weights `2^(-age / half_life)`, the last token of the context having age 0: mostly the last message.

        Ages are read some at a time, so that no tensor holds n whole contexts.
        """
        start, length = self._start()[:, None], self.length[:, None]  # (n, 1)
        total = self.embeddings.new_zeros(len(self.row), self.embeddings.shape[2], dtype=self._exact)
        mass = total.new_zeros(len(self.row), 1)
        oldest = math.ceil(min(int(self.length.max()), MOST_HALF_LIVES * half_life))
        for newest in range(0, oldest, AGES):
            age = torch.arange(newest, min(newest + AGES, oldest), device=self.row.device)
            weight = 0.5 ** (age.to(self._exact) / half_life) * (age < length)  # (n, ages)
            position = (start + length - 1 - age).maximum(start)
            tokens = self.embeddings[self.row[:, None], position].to(self._exact)  # (n, ages, D)
            total += torch.einsum("na,nad->nd", weight, tokens)
            mass += weight.sum(1, keepdim=True)
        return (total / mass).float()

    def last_hidden(self) -> Tensor:
        """(n, H) float32 hidden state of the bare model at each context's last token: what it is about to say."""
        if self.hidden is None:
            raise ValueError("hidden: missing; a retriever that reads hidden states needs those of the bare model")
        return self.hidden[self.row, self._start() + self.length - 1].float()

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Each context's own token embeddings (n, T', D), T' the longest context, and the mask (n, T') of real tokens."""
        steps = torch.arange(int(self.length.max()), device=self.row.device)
        mask = steps < self.length[:, None]  # (n, T')
        position = torch.where(mask, self._start()[:, None] + steps, 0)
        return self.embeddings[self.row[:, None], position].float(), mask

    @property
    def _exact(self) -> torch.dtype:
        """What sums are made in."""
        return torch.float32 if self.embeddings.device.type == "mps" else torch.float64

    def _start(self) -> Tensor:
        return torch.zeros_like(self.length) if self.start is None else self.start


@dataclass(frozen=True, slots=True)
class Reading:
    """What the retriever reads of a context, before the map g.

    Attributes:
        input: `mean` word embedding (published), `recent`: the mean with weights that halve every `half_life` tokens towards the past, or
            `hidden`: the bare model's last hidden state, at the cost of one more run over the context.
        half_life: of `recent`: tokens, above 0 and at most 1e6, which weighs the tokens of any context alike.
        rank: whitened to that many principal components of the training contexts; None reads the raw vector.
    """

    input: RetrieverInput = "mean"
    half_life: float = 8.0
    rank: int | None = None


class Retriever(nn.Module):
    """s_ik = act(cos(g(c_i), g(p_k))), with one trainable map g for contexts and prompts (paper, section 3.2).

    The published retriever reads mean embeddings and compares with the prompts' own mean rows. Other readings, and keys of their own in place of
    g(p_k), which then pull no longer on the prompts, are this project's (docs/method.md).

    Args:
        kind: `linear` (published default: one linear map of the mean embeddings), `mlp` (two layers), `transformer` (published alternative:
            2 layers, 4 heads, over the un-pooled embeddings) or `identity` (nothing to train but the prompts).
        dim: width of what is read: D, or that of the hidden states.
        hidden: width of g's output, of kinds `linear` and `mlp`; that of its input where None, and for the other kinds.
        activation: `softplus` (beta 10, threshold 1, as published), `relu` or `leaky_relu`: a similarity below 0 counts as (nearly) 0; `none`.
        reading: what is read of a context.
        keys: K trainable keys in place of g(p_k), or None.

    Raises:
        RecipeError: kind `transformer` and a width that its heads do not divide, or another reading than the mean; a rank above the width; a
            half-life out of range; hidden states without keys of their own.
    """

    def __init__(
        self,
        kind: RetrieverKind,
        *,
        dim: int,
        hidden: int | None = None,
        activation: ScoreActivation = "softplus",
        reading: Reading = Reading(),
        keys: int | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.activation = activation
        self.reading = reading
        _refuse(kind, reading, dim=dim, keys=keys)
        width = reading.rank or dim
        self.hidden = hidden if hidden and kind in ("linear", "mlp") else width
        self.register_buffer("centre", torch.zeros(dim))
        if reading.rank:
            self.register_buffer("whitener", torch.eye(dim, reading.rank))
        self.map: nn.Module = _make_map(kind, width, self.hidden)
        self.keys = nn.Parameter(torch.randn(keys, self.hidden)) if keys else None

    centre: Tensor  # (D,) mean context vector of the training data, or zeros
    whitener: Tensor  # (D, rank) principal components of the training contexts, each divided by its standard deviation

    def forward(self, contexts: Contexts, prompts: Tensor) -> Tensor:
        """Scores of n contexts against K prompts.

        Args:
            contexts: what to read.
            prompts: (K, L, D) soft prompts.

        Returns:
            (n, K) scores s_ik in the range of the activation; all equal where L = 0 and there are no keys.
        """
        return self.score(self.encode_contexts(contexts), self.encode_prompts(prompts))

    def encode_contexts(self, contexts: Contexts) -> Tensor:
        """g(c_i): (n, hidden)."""
        if self.kind != "transformer":
            return self.encode(self.read(contexts))
        tokens, mask = contexts.tokens()
        return self._pool(tokens - self.centre, mask)

    def encode(self, read: Tensor) -> Tensor:
        """g of what was read (n, D): centred, whitened and mapped to (n, hidden); of all kinds but `transformer`."""
        encoded: Tensor = self.map(self._whitened(read - self.centre))
        return encoded

    def read(self, contexts: Contexts) -> Tensor:
        """(n, D) or (n, H): what is read of n contexts, neither centred nor whitened."""
        if self.reading.input == "hidden":
            return contexts.last_hidden()
        return contexts.recent(self.reading.half_life) if self.reading.input == "recent" else contexts.means()

    def _whitened(self, vectors: Tensor) -> Tensor:
        return vectors @ self.whitener if self.reading.rank else vectors

    def encode_prompts(self, prompts: Tensor) -> Tensor:
        """g(p_k): (K, hidden) of prompts (K, L, D), or the keys in its place."""
        if self.keys is not None:
            return self.keys
        if prompts.shape[1] == 0:
            return prompts.new_zeros(prompts.shape[0], self.hidden)
        if self.kind != "transformer":
            encoded: Tensor = self.map(self._whitened(prompts.mean(1)))
            return encoded
        return self._pool(prompts, torch.ones(prompts.shape[:2], dtype=torch.bool, device=prompts.device))

    def score(self, contexts: Tensor, prompts: Tensor) -> Tensor:
        """act(cos) of g(c) (n, hidden) and g(p) (K, hidden): (n, K)."""
        cosine = F.normalize(contexts, dim=-1) @ F.normalize(prompts, dim=-1).T
        if self.activation == "none":
            return cosine
        if self.activation == "softplus":
            return F.softplus(cosine, beta=10, threshold=1)
        return F.relu(cosine) if self.activation == "relu" else F.leaky_relu(cosine)

    def _pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        encoded: Tensor = self.map(tokens, src_key_padding_mask=~mask)  # (n, T, D)
        return (encoded * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def seeded_retriever(make: Callable[[], Retriever], *, seed: int) -> Retriever:
    """A new `Retriever` whose initial numbers depend on `seed` alone; torch's global random state stays as it is."""
    with seeded(seed):
        return make()


def _refuse(kind: RetrieverKind, reading: Reading, *, dim: int, keys: int | None) -> None:
    """Refuse readings that cannot be had."""
    if kind == "transformer" and (reading.input != "mean" or reading.rank):
        raise RecipeError(
            "retriever.kind=transformer: reads all tokens; leave retriever.input and retriever.whiten out"
        )
    if reading.input == "hidden" and not keys:
        raise RecipeError(
            "retriever.keys: retriever.input=hidden reads hidden states, which are no match for prompts; set retriever.keys=clusters or random"
        )
    if reading.rank and reading.rank > dim:
        raise RecipeError(
            f"retriever.whiten: {reading.rank} exceeds the width of what is read, {dim}; set it to {dim} or less"
        )
    if not 0 < reading.half_life <= LONGEST_HALF_LIFE:
        raise RecipeError(
            f"retriever.half_life: {reading.half_life:g} is not above 0 and at most {LONGEST_HALF_LIFE:,.0f} tokens; input=mean weighs all alike"
        )


def _make_map(kind: RetrieverKind, dim: int, hidden: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(dim, hidden)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    if kind == "transformer":
        if dim % HEADS:
            raise RecipeError(
                f"retriever.kind=transformer: has {HEADS} heads, which do not divide the embedding width {dim}; use linear or mlp"
            )
        layer = nn.TransformerEncoderLayer(dim, nhead=HEADS, dim_feedforward=2 * dim, dropout=0.0, batch_first=True)
        return nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
    return nn.Identity()
