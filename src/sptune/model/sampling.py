"""The next token of each of several replies: the most probable one, or a draw at its own temperature from its own numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_HEAD = 256  # the most probable tokens, in which the nucleus is looked for first


def pick(probs: Tensor, *, temperature: Tensor, draw: Tensor, top_p: float) -> Tensor:
    """The next token of each reply.

    Args:
        probs: (A, V) probabilities; a row need not sum to 1.
        temperature: (A,) 0 takes the most probable token (the first of equals), above it draws from `p^(1/temperature)`.
        draw: (A,) uniform numbers in 0..1: the token is where the distribution function passes that share.
        top_p: draws are from the smallest set of tokens that holds this share of the probability.

    Returns:
        (A,) token ids.

    >>> probs = torch.tensor([[0.2, 0.5, 0.3]]).expand(3, 3)
    >>> pick(probs, temperature=torch.tensor([0.0, 1.0, 1.0]), draw=torch.tensor([0.0, 0.1, 0.9]), top_p=1.0).tolist()
    [1, 0, 2]
    """
    tokens = probs.argmax(1)
    sampled = temperature > 0
    if not bool(sampled.any()):
        return tokens
    weights, heat = probs[sampled], temperature[sampled, None]
    if bool((heat != 1).any()):
        weights = (weights / weights.amax(1, keepdim=True)) ** (1 / heat)
    tokens[sampled] = _draw(weights, draw[sampled]) if top_p == 1 else _draw_from_nucleus(weights, draw[sampled], top_p)
    return tokens


def uniform(seeds: Sequence[int], count: int) -> Tensor:
    """(S, count) numbers in 0..1, each row from its own seed alone."""
    return torch.stack([torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def draw_seed(*parts: object) -> int:
    """A seed made of several things, such as a seed, a dialogue's id and the number of a turn; 63 bits."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def _draw(weights: Tensor, draw: Tensor) -> Tensor:
    """(A,) the places at which the running sums of `weights` (A, V) pass the shares `draw` (A,) of the whole."""
    total = weights.cumsum(1)
    place = torch.searchsorted(total, draw[:, None] * total[:, -1:], right=True)
    return place.clamp(max=weights.shape[1] - 1).squeeze(1)


def _draw_from_nucleus(weights: Tensor, draw: Tensor, top_p: float, size: int = _HEAD) -> Tensor:
    """(A,) tokens drawn from the most probable ones; more than `size` are sorted only where they are not the nucleus yet."""
    wanted = top_p * weights.sum(1, keepdim=True)
    values, order = weights.topk(min(size, weights.shape[1]), dim=1)  # falling
    before = values.cumsum(1) - values
    tokens = order.gather(1, _draw(values * (before < wanted), draw)[:, None]).squeeze(1)
    wide = before[:, -1] + values[:, -1] < wanted[:, 0]
    if size < weights.shape[1] and bool(wide.any()):
        tokens[wide] = _draw_from_nucleus(weights[wide], draw[wide], top_p, 8 * size)
    return tokens
