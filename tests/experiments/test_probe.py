"""The offline probe: it finds what a context tells about the prompts, and nothing where there is nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import pytest
import torch

from small_run import talks
from sptune.data.dialogue import Dialogue
from sptune.evaluation.result import TurnRecord
from sptune.experiments.probe import ContextFeatures, ProbeTurns, context_features, run_probe
from sptune.model.spt import SPTModel


def turns(features: torch.Tensor, costs: torch.Tensor, *, tokens: int = 4) -> ProbeTurns:
    """Turns of ten to a dialogue; `costs` (n, K) are nats per token."""
    records = [
        TurnRecord(
            dialogue=f"d{n // 10}",
            turn=n % 10,
            prompt=0,
            scores=(0.0,) * len(row),
            margin=0.0,
            tokens=tokens,
            logprobs=tuple(-tokens * cost for cost in row),
        )
        for n, row in enumerate(costs.tolist())
    ]
    return ProbeTurns(ContextFeatures(hidden=features, embedding=torch.zeros_like(features)), records)


def drawn(count: int, *, seed: int, signal: float) -> ProbeTurns:
    """Turns whose first feature says which of two prompts is better by `signal` nats per token."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=generator)
    noise = 0.1 * torch.randn(count, 2, generator=generator)
    sign = features[:, :1].sign()
    return turns(features, 2.0 + noise + signal * torch.cat([sign, -sign], dim=1))


def test_it_picks_what_the_features_tell():
    found = run_probe(drawn(200, seed=0, signal=0.5), drawn(100, seed=1, signal=0.5), fitted_on="validation")
    assert found.perplexity == found.hidden.perplexity == pytest.approx(math.exp(1.5), rel=0.1)
    assert found.embedding.perplexity == pytest.approx(math.exp(2.0), rel=0.1), "these features tell nothing"
    assert set(found.hidden.picks) == {0, 1}
    assert len(set(found.embedding.picks)) == 1
    assert (found.fitted_on, found.fitted_turns) == ("validation", 200)
    json.dumps(found.to_json(), allow_nan=False)


def test_without_anything_to_find_it_takes_the_best_prompt_for_all():
    generator = torch.Generator().manual_seed(0)
    costs = torch.tensor([[2.5, 2.0, 2.2]]) + 0.01 * torch.randn(100, 3, generator=generator)
    fit, test = turns(torch.randn(100, 4, generator=generator), costs), turns(torch.zeros(5, 4), costs[:5])
    assert run_probe(fit, test, fitted_on="train").hidden.picks == (1,) * 5


def test_the_perplexity_weighs_tokens():
    """Two turns, of 4 and 12 tokens, that cost 1 and 2 nats a token: exp((4 + 24) / 16)."""
    fit = turns(torch.zeros(20, 2), torch.tensor([[1.0, 9.0]] * 20))
    short, long = (turns(torch.zeros(1, 2), torch.tensor([[cost, 9.0]]), tokens=n) for cost, n in ((1.0, 4), (2.0, 12)))
    test = ProbeTurns(ContextFeatures(torch.zeros(2, 2), torch.zeros(2, 2)), [*short.records, *long.records])
    assert run_probe(fit, test, fitted_on="train").perplexity == pytest.approx(math.exp(28 / 16))


def test_one_dialogue_is_enough_to_fit():
    few = turns(torch.randn(4, 3), torch.rand(4, 2))
    assert len(run_probe(few, few, fitted_on="train").hidden.picks) == 4


def test_features_are_of_the_bare_model_and_of_the_context_alone(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    dialogues: Sequence[Dialogue] = talks(5)
    found = context_features(model, dialogues)
    rows = [(talk, n) for talk in dialogues for n in range(len(talk.turns))]
    assert len(found.hidden) == len(found.embedding) == len(rows)
    for row, (talk, n) in enumerate(rows):
        ids = torch.tensor([model.encoder.encode_context(talk.context(n)).input_ids])
        embeddings = model.backbone.embed(ids)
        torch.testing.assert_close(found.embedding[row], embeddings[0].mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.hidden[row], model.backbone.hidden(embeddings)[0, -1], atol=1e-4, rtol=1e-4)
