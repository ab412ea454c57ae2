"""Prompts that speak together: weights and log-probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from sptune.model.mixture import mixed_logprobs, mixture_weights, response_logprob
from sptune.model.selection import Selection

CHOSEN = Selection(1, (0.5, 0.7, 0.1), 0.2)


def test_the_gate_is_the_softmax_of_the_scores():
    wanted = [math.exp(score / 0.1) for score in CHOSEN.scores]
    weights = mixture_weights(CHOSEN, kind="gated", temperature=0.1)
    assert weights == pytest.approx([weight / sum(wanted) for weight in wanted])
    assert mixture_weights(CHOSEN, kind="mixture", temperature=0.1) == weights


def test_the_gate_lies_between_one_prompt_and_all():
    assert mixture_weights(CHOSEN, kind="gated", temperature=1e-4) == pytest.approx((0, 1, 0))
    assert mixture_weights(CHOSEN, kind="top1") == (0, 1, 0)
    assert mixture_weights(CHOSEN, kind="gated", temperature=1e6) == pytest.approx((1 / 3,) * 3, abs=1e-6)
    assert mixture_weights(CHOSEN, kind="fused") == (1 / 3,) * 3


def test_a_forced_prompt_speaks_alone_whatever_the_scores():
    assert mixture_weights(Selection(2, CHOSEN.scores, 0.2), kind="top1") == (0, 0, 1)


def test_mixing_is_an_average_of_probabilities():
    logprobs = torch.randn(3, 5, dtype=torch.double).log_softmax(1)
    weights = (0.2, 0.0, 0.8)
    wanted = (logprobs.exp() * torch.tensor(weights, dtype=torch.double)[:, None]).sum(0).log()
    assert torch.allclose(mixed_logprobs(logprobs, weights), wanted)
    assert torch.equal(mixed_logprobs(logprobs, (0.0, 1.0, 0.0)), logprobs[1])


def test_one_speaker_for_all_tokens_is_not_a_mixture_at_every_token():
    """p = (0.5, 0.5) and (0.1, 0.1): (0.25 + 0.01) / 2 for one speaker, 0.3 * 0.3 for a mixture."""
    logprobs = torch.tensor([[0.5, 0.5], [0.1, 0.1]], dtype=torch.double).log()
    assert math.exp(response_logprob(logprobs, (0.5, 0.5), kind="mixture")) == pytest.approx(0.13)
    for kind in ("fused", "gated", "top1"):
        assert math.exp(response_logprob(logprobs, (0.5, 0.5), kind=kind)) == pytest.approx(0.09)
