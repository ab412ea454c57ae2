"""Likelihood of gold responses: one by one, by hand, and against the bare model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from sptune.data.dialogue import Dialogue
from sptune.errors import ModelError
from sptune.evaluation.scoring import TurnScore, likelihood, score_turns, selection_quality
from sptune.evaluation.turns import ChosenTurn, choose_prompts
from sptune.model.selection import Selection
from sptune.model.spt import SPTModel

Dialogues = tuple[Dialogue, ...]


def score(*logprobs: float, tokens: int = 2, size: int = 8, prompt: int = 0, fused: float = -1.0) -> TurnScore:
    scores = tuple(1.0 - k for k in range(len(logprobs)))
    return TurnScore("a", 0, tokens, size, logprobs, fused, Selection(prompt, scores, 1.0))


def alone(model: SPTModel, turn: ChosenTurn, prompt: int) -> torch.Tensor:
    """Log-probability of each response token of one turn, from full logits of one unpadded sequence."""
    span, ids = turn.span, list(turn.sequence.input_ids[: turn.span.response_end])
    targets = ids[span.context_length :] + ([] if model.encoder.stop_id is None else [model.encoder.stop_id])
    tokens = model.backbone.embed(torch.tensor(ids))
    inputs = torch.cat([model.prompts.embeddings[prompt].detach(), tokens])[None]
    with torch.no_grad():
        logprobs = model.backbone.model(inputs_embeds=inputs, use_cache=False).logits[0].double().log_softmax(-1)
    first = model.prompts.length + span.context_length - 1
    rows = torch.arange(first, first + len(targets))
    return logprobs[rows, torch.tensor(targets)]


@pytest.mark.parametrize("template", ["paper", "chat"])
@pytest.mark.parametrize("budget", [1, 700, 10**6])
def test_packed_batches_equal_one_sequence_a_turn(
    tiny_model: Callable[..., SPTModel], dialogues: Dialogues, template: str, budget: int
) -> None:
    model = tiny_model(template)
    turns = choose_prompts(model, dialogues)
    for turn, got in zip(turns, score_turns(model, turns, token_budget=budget), strict=True):
        wanted = torch.stack([alone(model, turn, k) for k in range(3)])  # (K, tokens)
        assert got.tokens == wanted.shape[1]
        assert got.bytes == len((turn.turn.response or "").encode())
        assert got.logprobs == pytest.approx(wanted.sum(1).tolist(), abs=1e-4)
        assert got.fused_logprob == pytest.approx(float(wanted.exp().mean(0).log().sum()), abs=1e-4)


def test_gated_figures_by_hand(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    model = tiny_model()
    turns = choose_prompts(model, dialogues)
    for turn, got in zip(turns, score_turns(model, turns, gate_temperature=0.05), strict=True):
        each = torch.stack([alone(model, turn, k) for k in range(3)])  # (K, tokens)
        gate = (torch.tensor(turn.selection.scores) / 0.05).softmax(0).double()
        assert float(gate.max()) < 0.999
        assert got.gated_logprob == pytest.approx(float((gate @ each.exp()).log().sum()), abs=1e-4)
        assert got.mixture_logprob == pytest.approx(float((gate @ each.sum(1).exp()).log()), abs=1e-3)
    flat = score_turns(model, turns, gate_temperature=1e6)
    assert [one.gated_logprob for one in flat] == pytest.approx([one.fused_logprob for one in flat], abs=1e-4)
    sharp = score_turns(model, turns, gate_temperature=1e-5)
    chosen = [one.logprobs[one.selection.prompt] for one in sharp]
    assert [one.gated_logprob for one in sharp] == pytest.approx(chosen, abs=1e-4)
    assert [one.mixture_logprob for one in sharp] == pytest.approx(chosen, abs=1e-4)


def test_gated_perplexities_are_those_of_the_sums() -> None:
    two = [replace(score(-2.0, -4.0), gated_logprob=-3.0, mixture_logprob=-2.5) for _ in range(2)]
    found = likelihood(two)
    assert found.gated_perplexity == pytest.approx(math.exp(6 / 4))
    assert found.mixture_perplexity == pytest.approx(math.exp(5 / 4))
    older = likelihood([*two, score(-2.0, -4.0)])
    assert (older.gated_perplexity, older.mixture_perplexity) == (None, None)


def test_the_order_of_dialogues_does_not_matter(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    model = tiny_model()
    forward = score_turns(model, choose_prompts(model, dialogues), token_budget=900)
    backward = score_turns(model, choose_prompts(model, dialogues[::-1]), token_budget=900)
    by_turn = {(one.dialogue, one.turn): one for one in backward}
    assert [(one.dialogue, one.turn) for one in forward] != [(one.dialogue, one.turn) for one in backward]
    for one in forward:
        assert by_turn[one.dialogue, one.turn].logprobs == pytest.approx(one.logprobs, abs=1e-4)
    assert likelihood(backward).perplexity == pytest.approx(likelihood(forward).perplexity, rel=1e-6)


def test_one_prompt_without_tokens_is_the_bare_model(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    model = tiny_model(count=1, length=0)
    turns = choose_prompts(model, dialogues)
    total, tokens = 0.0, 0
    for turn in turns:
        context = list(turn.context_ids)
        response = list(turn.sequence.input_ids[len(context) : turn.span.response_end])
        labels = torch.tensor([[-100] * len(context) + response + [model.encoder.stop_id]])
        ids = torch.tensor([context + response + [model.encoder.stop_id]])
        with torch.no_grad():
            mean = model.backbone.model(input_ids=ids, labels=labels).loss
        total += float(mean) * (len(response) + 1)
        tokens += len(response) + 1
    found = likelihood(score_turns(model, turns))
    assert (found.tokens, found.turns) == (tokens, len(turns))
    assert found.perplexity == pytest.approx(math.exp(total / tokens), rel=1e-5)
    every = (found.best_prompt_perplexity, found.random_perplexity, found.oracle_perplexity, found.fused_perplexity)
    assert every == pytest.approx([found.perplexity] * 4, rel=1e-6)


def test_the_stop_token_counts_where_it_is_learned(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    with_stop, without = tiny_model(), tiny_model(learn_stop=False)
    learned = score_turns(with_stop, choose_prompts(with_stop, dialogues))
    for one, other in zip(learned, score_turns(without, choose_prompts(without, dialogues)), strict=True):
        assert (one.tokens, one.bytes) == (other.tokens + 1, other.bytes)
        assert all(a < b for a, b in zip(one.logprobs, other.logprobs, strict=True))


def test_perplexities_by_hand() -> None:
    # 2 tokens cost (2, 4) nats, 4 tokens cost (6, 1): prompt 0 is chosen, then prompt 1 where prompt 0 scores best.
    first, second = score(-2.0, -4.0, fused=-2.5), score(-6.0, -1.0, tokens=4, size=10, prompt=1, fused=-1.5)
    found = likelihood([first, second])
    assert (found.turns, found.tokens, found.bytes, found.best_prompt) == (2, 6, 18, 1)
    assert found.perplexity == pytest.approx(math.exp((2 + 1) / 6))
    assert found.bits_per_byte == pytest.approx((2 + 1) / math.log(2) / 18)
    assert found.prompt_perplexity == pytest.approx((math.exp(8 / 6), math.exp(5 / 6)))
    assert found.best_prompt_perplexity == pytest.approx(math.exp(5 / 6))
    assert found.random_perplexity == pytest.approx(math.exp((8 + 5) / 2 / 6))
    assert found.oracle_perplexity == pytest.approx(math.exp((2 + 1) / 6))
    assert found.fused_perplexity == pytest.approx(math.exp(4 / 6))


def test_selection_by_hand() -> None:
    # Losses a token: (1, 2), (3, 1) and (1, 1.5). Chosen: 0, 0, 1, whatever the scores say.
    found = selection_quality([score(-2.0, -4.0), score(-6.0, -2.0), score(-2.0, -3.0, prompt=1)])
    assert found.usage == pytest.approx((2 / 3, 1 / 3))
    assert found.entropy == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) / math.log(2))
    assert found.agreement == pytest.approx(1 / 3)
    assert found.regret == pytest.approx((0 + 2 + 0.5) / 3)
    assert found.specialisation == pytest.approx((0.5 + 1 + 0.25) / 3)
    assert found.margin == pytest.approx(1.0)


def test_the_controls_are_ordered(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    model = tiny_model()
    found = likelihood(score_turns(model, choose_prompts(model, dialogues)))
    assert found.oracle_perplexity <= found.best_prompt_perplexity < found.random_perplexity
    assert found.fused_perplexity < found.random_perplexity  # Jensen's inequality
    assert found.oracle_perplexity <= found.perplexity
    assert found.prompt_perplexity[found.best_prompt] == found.best_prompt_perplexity == min(found.prompt_perplexity)


def test_an_absurd_loss_is_still_a_number() -> None:
    assert math.isfinite(likelihood([score(-1e6)]).perplexity)


def test_numbers_that_are_not_finite_are_refused(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    model = tiny_model()
    turns = choose_prompts(model, dialogues, prompt=0)
    with torch.no_grad():
        model.prompts.embeddings[1, 0, 0] = math.nan
    with pytest.raises(ModelError, match=r"dialogue '\w+', turn 0.*not finite.*float32"):
        score_turns(model, turns, token_budget=10**6)


def test_progress_ends_at_the_number_of_turns(tiny_model: Callable[..., SPTModel], dialogues: Dialogues) -> None:
    model = tiny_model()
    turns = choose_prompts(model, dialogues)
    calls: list[tuple[str, int, int]] = []
    score_turns(model, turns, token_budget=900, progress=lambda *call: calls.append(call))
    assert calls[0] == ("likelihood", 0, len(turns))
    assert calls[-1] == ("likelihood", len(turns), len(turns))
    assert len(calls) > 2
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
