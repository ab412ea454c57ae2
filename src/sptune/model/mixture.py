"""Prompts that speak together: the weights of their distributions, and log-probabilities under the mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sptune.model.selection import Selection

Mixture = Literal["top1", "fused", "gated"]
Likelihood = Literal["top1", "fused", "gated", "mixture"]


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who speaks.

    Attributes:
        kind: the chosen prompt (`top1`), or at every token the average of the K distributions (`fused`), or their average
            weighted by the gate (`gated`).
        gate_temperature: tau of the gate `pi_k = softmax_k(s_ik / tau)`, > 0.
    """

    kind: Mixture = "top1"
    gate_temperature: float = 0.1

    def weights(self, selection: Selection) -> tuple[float, ...]:
        """K weights, which sum to 1, of the prompts that speak in a context."""
        return mixture_weights(selection, kind=self.kind, temperature=self.gate_temperature)


def mixture_weights(selection: Selection, *, kind: Likelihood, temperature: float = 1.0) -> tuple[float, ...]:
    """K weights, which sum to 1, of the prompts that speak in one context.

    Args:
        selection: of the context.
        kind: `top1`: the chosen prompt alone; `fused`: all alike; `gated` and `mixture`: the gate
            `pi_k = softmax_k(s_ik / temperature)`.
        temperature: tau of the gate, > 0.

    >>> chosen = Selection(1, (0.0, 1.0986123), 1.0)
    >>> [mixture_weights(chosen, kind=kind) for kind in ("top1", "fused")]
    [(0.0, 1.0), (0.5, 0.5)]
    >>> [round(weight, 6) for weight in mixture_weights(chosen, kind="gated")]
    [0.25, 0.75]
    """
    count = len(selection.scores)
    if kind == "top1":
        return one_hot(selection.prompt, count)
    if kind == "fused":
        return (1 / count,) * count
    weights = (torch.tensor(selection.scores, dtype=torch.double) / temperature).softmax(0)
    return tuple(weights.tolist())


def one_hot(prompt: int, count: int) -> tuple[float, ...]:
    """K weights that let one prompt speak alone."""
    return tuple(float(k == prompt) for k in range(count))


def mixed_logprobs(logprobs: Tensor, weights: Sequence[float]) -> Tensor:
    """Log-probabilities under a mixture: `log sum_k w_k p_k`.

    Args:
        logprobs: (K, ...) log-probabilities in nats of the same things under each prompt.
        weights: K weights that sum to 1.

    Returns:
        (...) nats.

    >>> mixed_logprobs(torch.tensor([[0.5, 0.1], [0.1, 0.5]]).log(), [0.75, 0.25]).exp()
    tensor([0.4000, 0.2000])
    """
    weight = torch.tensor(weights, dtype=logprobs.dtype, device=logprobs.device).log()  # (K,)
    return (logprobs + weight.view(-1, *[1] * (logprobs.dim() - 1))).logsumexp(0)


def response_logprob(logprobs: Tensor, weights: Sequence[float], *, kind: Likelihood) -> Tensor:
    """Log-probability of a whole response.

    `mixture` lets one prompt, drawn by the weights, speak all of it: `log sum_k w_k prod_t p_kt`. The others mix at every
    token: `sum_t log sum_k w_k p_kt`.

    Args:
        logprobs: (K, m) log-probabilities in nats of its m tokens under each prompt.
        weights: K weights that sum to 1.
        kind: how the prompts speak together.

    Returns:
        Scalar, nats, summed over the tokens.
    """
    if kind == "mixture":
        return mixed_logprobs(logprobs.sum(1), weights)
    return mixed_logprobs(logprobs, weights).sum()
