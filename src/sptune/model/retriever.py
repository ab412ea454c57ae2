"""The dense retriever: scores each context against each soft prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor, nn

from sptune.errors import RecipeError

RetrieverKind = Literal["linear", "transformer", "mlp", "identity"]
ScoreActivation = Literal["softplus", "relu", "leaky_relu"]
HEADS = 4  # of the transformer kind, as published


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the retriever reads of n contexts: token embeddings, of context tokens only.

    Attributes:
        embeddings: (B, T, D) word embeddings of the sequences, without gradient.
        row: (n,) the sequence of each context.
        length: (n,) tokens of each context, counted from the start of its sequence, or from `start`.
        start: (n,) first token of each context; where padding stands on the left it is not 0.
    """

    embeddings: Tensor
    row: Tensor
    length: Tensor
    start: Tensor | None = None

    def means(self) -> Tensor:
        """(n, D) float32 mean embedding of each context.

        A running sum in float64, so that the n contexts of one sequence cost one pass and a context's mean does not depend on its batch.
        """
        sums = self.embeddings.double().cumsum(1)  # (B, T, D)
        end = self._start() + self.length
        total = sums[self.row, end - 1]  # (n, D)
        before = torch.where((self._start() > 0)[:, None], sums[self.row, (self._start() - 1).clamp(min=0)], 0.0)
        return ((total - before) / self.length[:, None]).float()

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Each context's own token embeddings (n, T', D), T' the longest context, and the mask (n, T') of real tokens."""
        steps = torch.arange(int(self.length.max()), device=self.row.device)
        mask = steps < self.length[:, None]  # (n, T')
        position = torch.where(mask, self._start()[:, None] + steps, 0)
        return self.embeddings[self.row[:, None], position].float(), mask

    def _start(self) -> Tensor:
        return torch.zeros_like(self.length) if self.start is None else self.start


class Retriever(nn.Module):
    """s_ik = act(cos(g(c_i), g(p_k))), with one trainable map g for contexts and prompts (paper, section 3.2).

    Args:
        kind: `linear` (published default: one linear map of the mean embeddings), `mlp` (two layers), `transformer` (published alternative:
            2 layers, 4 heads, over the un-pooled embeddings) or `identity` (nothing to train but the prompts).
        dim: D, the embedding width.
        hidden: width of g's output, of kinds `linear` and `mlp`; D where None, and for the other kinds.
        activation: `softplus` (beta 10, threshold 1, as published), `relu` or `leaky_relu`: a similarity below 0 counts as (nearly) 0.

    Raises:
        RecipeError: kind `transformer` and a width that its heads do not divide.
    """

    def __init__(
        self, kind: RetrieverKind, *, dim: int, hidden: int | None = None, activation: ScoreActivation = "softplus"
    ) -> None:
        super().__init__()
        self.kind = kind
        self.activation = activation
        self.hidden = hidden if hidden and kind in ("linear", "mlp") else dim
        self.register_buffer("centre", torch.zeros(dim))
        self.map: nn.Module = _make_map(kind, dim, self.hidden)

    centre: Tensor  # (D,) mean context vector of the training data, or zeros

    def forward(self, contexts: Contexts, prompts: Tensor) -> Tensor:
        """Scores of n contexts against K prompts.

        Args:
            contexts: what to read.
            prompts: (K, L, D) soft prompts.

        Returns:
            (n, K) scores s_ik in the range of the activation; all equal where L = 0.
        """
        return self.score(self.encode_contexts(contexts), self.encode_prompts(prompts))

    def encode_contexts(self, contexts: Contexts) -> Tensor:
        """g(c_i): (n, hidden)."""
        if self.kind != "transformer":
            encoded: Tensor = self.map(contexts.means() - self.centre)
            return encoded
        tokens, mask = contexts.tokens()
        return self._pool(tokens - self.centre, mask)

    def encode_prompts(self, prompts: Tensor) -> Tensor:
        """g(p_k): (K, hidden) of prompts (K, L, D)."""
        if prompts.shape[1] == 0:
            return prompts.new_zeros(prompts.shape[0], self.hidden)
        if self.kind != "transformer":
            encoded: Tensor = self.map(prompts.mean(1))
            return encoded
        return self._pool(prompts, torch.ones(prompts.shape[:2], dtype=torch.bool, device=prompts.device))

    def score(self, contexts: Tensor, prompts: Tensor) -> Tensor:
        """act(cos) of g(c) (n, hidden) and g(p) (K, hidden): (n, K)."""
        cosine = F.normalize(contexts, dim=-1) @ F.normalize(prompts, dim=-1).T
        if self.activation == "softplus":
            return F.softplus(cosine, beta=10, threshold=1)
        return F.relu(cosine) if self.activation == "relu" else F.leaky_relu(cosine)

    def _pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        encoded: Tensor = self.map(tokens, src_key_padding_mask=~mask)  # (n, T, D)
        return (encoded * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def seeded_retriever(
    kind: RetrieverKind, *, dim: int, hidden: int | None = None, activation: ScoreActivation = "softplus", seed: int
) -> Retriever:
    """A new `Retriever` whose initial map depends on `seed` alone; torch's global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Retriever(kind, dim=dim, hidden=hidden, activation=activation)


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
