"""Soft prompts that a small network makes while they are trained (P-tuning, Liu et al. 2021, arXiv 2103.10385)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sptune.model.prompts import SoftPrompts
from sptune.model.seeding import seeded

PromptEncoder = Literal["separate", "shared"]
"""One network for each prompt, or one for all of them."""


class EncodedPrompts(SoftPrompts):
    """K soft prompts whose virtual tokens are made of a trained vector each, by a network of two hidden layers (ReLU).

    Only training knows of the network: an adapter holds what it makes, `plain()`.

    Args:
        count: K.
        length: L.
        dim: D, the embedding width.
        encoder: whether prompts share the network. One that is shared learns from what every prompt sees.
        hidden: width of its hidden layers; D where None.
        seed: of its initial numbers; torch's global random state stays as it is.
    """

    def __init__(
        self,
        *,
        count: int,
        length: int,
        dim: int,
        encoder: PromptEncoder = "separate",
        hidden: int | None = None,
        seed: int = 0,
    ) -> None:
        nn.Module.__init__(self)
        width, networks = hidden or dim, 1 if encoder == "shared" else count
        with seeded(seed):
            self.tokens = nn.Parameter(torch.randn(networks, count // networks * length, dim))
            self.networks = nn.ModuleList(_network(dim, width) for _ in range(networks))
        self._shape = (count, length, dim)

    @property
    def embeddings(self) -> Tensor:  # type: ignore[override]
        """(K, L, D) what the networks make now; with gradient."""
        made = [network(tokens) for network, tokens in zip(self.networks, self.tokens, strict=True)]
        return torch.cat(made).view(self._shape)

    @property
    def count(self) -> int:
        """K."""
        return self._shape[0]

    @property
    def length(self) -> int:
        """L, virtual tokens of each prompt."""
        return self._shape[1]


def _network(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim)
    )
