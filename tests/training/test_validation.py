"""Validation in training gives the evaluation's own figures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from small_run import talks
from sptune.data.batch import collate
from sptune.losses import example_sums
from sptune.model.spt import SPTModel
from sptune.training.validation import validate


def test_perplexities_are_those_of_the_model_itself(tiny_model: Callable[..., SPTModel]):
    """Computed again from one forward pass over everything."""
    model, dialogues = tiny_model(), talks(4)
    figures = validate(model, dialogues)
    batch = collate([s for talk in dialogues for s in model.encoder.encode(talk)], stop_id=model.encoder.stop_id)
    with torch.no_grad():
        output = model(batch)
    sums = example_sums(
        output.target_logprobs.double(), example=batch.target_example, examples=batch.examples
    )  # (n, K)
    chosen = sums.gather(1, output.scores.argmax(1, keepdim=True)).sum()
    tokens = len(batch.target_ids)
    assert figures["perplexity"] == pytest.approx(math.exp(-float(chosen) / tokens), rel=1e-4)
    assert figures["oracle_perplexity"] == pytest.approx(math.exp(-float(sums.max(1).values.sum()) / tokens), rel=1e-4)
    each = [math.exp(-float(total) / tokens) for total in sums.sum(0)]
    assert figures["prompt_perplexity"] == pytest.approx(each, rel=1e-4)
    assert figures["best_prompt_perplexity"] == min(figures["prompt_perplexity"])
    fused = output.target_logprobs.double().logsumexp(0) - math.log(3)
    assert figures["fused_perplexity"] == pytest.approx(math.exp(-float(fused.mean())), rel=1e-4)
    usage = torch.bincount(output.scores.argmax(1), minlength=3).double() / batch.examples
    assert figures["usage"] == pytest.approx(usage.tolist())


def test_it_leaves_the_model_as_it_was(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    validate(model, talks(2))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
