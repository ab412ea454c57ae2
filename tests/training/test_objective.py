"""The objective is the weighted sum of the pure losses, with what the recipe switches on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from small_run import talks
from sptune import losses
from sptune.config import LossesSection
from sptune.data.batch import TokenBatch, collate
from sptune.data.dialogue import Dialogue, Turn
from sptune.model.spt import SPTModel, SPTOutput
from sptune.training.objective import Objective

K = 3


def persona_match(batch: TokenBatch) -> Tensor:
    """100 for equal personas, else 0."""
    return torch.tensor([[100.0 * (a.persona == b.persona) for b in batch.dialogues] for a in batch.dialogues])


@pytest.fixture
def batch(tiny_model: Callable[..., SPTModel]) -> TokenBatch:
    """8 turns of 4 dialogues; the first two have one persona."""
    first, second, *others = talks(4, turns=2)
    dialogues = [first, replace(second, persona=first.persona), *others]
    encoder = tiny_model().encoder
    return collate([s for talk in dialogues for s in encoder.encode(talk)], stop_id=encoder.stop_id)


@pytest.fixture
def output(batch: TokenBatch) -> SPTOutput:
    draw = torch.Generator().manual_seed(0)
    logprobs = -5 * torch.rand(K, len(batch.target_ids), generator=draw)
    scores = torch.rand(batch.examples, K, generator=draw)
    return SPTOutput(logprobs.requires_grad_(), scores.requires_grad_(), None)


def objective(settings: dict[str, Any] | None = None, **options: Any) -> Objective:
    return Objective(LossesSection.model_validate(settings or {}), **{"similarity": persona_match, **options})


def different(batch: TokenBatch) -> Tensor:
    ids = [talk.id for talk in batch.dialogues]
    return torch.tensor([[a != b for b in ids] for a in ids])


def test_total_is_the_weighted_sum_of_the_pure_losses(batch: TokenBatch, output: SPTOutput):
    settings = {
        "llm_weight": 0.9,
        "selection": {"weight": 0.3, "teacher_temperature": 0.5, "student_temperature": 0.2},
        "contrastive": {"weight": 0.7, "similar": "repel", "threshold": 50},
        "fusion": {"weight": 0.2},
    }
    parts = objective(settings)(output, batch)
    nll = losses.example_nll(output.target_logprobs, example=batch.target_example, examples=batch.examples)
    llm = losses.llm_loss(output.target_logprobs)
    selection = losses.selection_loss(output.scores, nll, teacher_temperature=0.5, student_temperature=0.2)
    contrastive = losses.contrastive_loss(
        output.scores, similarity=persona_match(batch), threshold=50, mask=different(batch), similar="repel"
    )
    fusion = losses.fusion_loss(output.target_logprobs)
    for part, pure in ((parts.llm, llm), (parts.selection, selection), (parts.contrastive, contrastive)):
        torch.testing.assert_close(part, pure)
    torch.testing.assert_close(parts.fusion, fusion)
    torch.testing.assert_close(parts.total, 0.9 * llm + 0.3 * selection + 0.7 * contrastive + 0.2 * fusion)
    torch.testing.assert_close(parts.nll, nll.detach())
    assert not parts.nll.requires_grad


PARTS = {
    "llm": ({"llm_weight": 0.0}, "llm_loss"),
    "selection": ({"selection": {"weight": 0}}, "selection_loss"),
    "contrastive": ({"contrastive": {"weight": 0}}, "contrastive_loss"),
    "fusion": ({"fusion": {"weight": 0}}, "fusion_loss"),
}

GATED: dict[str, dict[str, Any]] = {
    "expected": {"objective": "expected", "gate_temperature": 0.3, "uniform_share": 0.2},
    "mixture": {"objective": "mixture", "gate_temperature": 0.3},
}


@pytest.mark.parametrize("part", PARTS)
def test_weight_zero_switches_a_loss_off(
    batch: TokenBatch, output: SPTOutput, monkeypatch: pytest.MonkeyPatch, part: str
):
    """It is not computed, and its part is 0; the others stay as they were."""
    settings, function = PARTS[part]
    before = objective()(output, batch)

    def forbidden(*_: Any, **__: Any) -> Tensor:
        raise AssertionError(f"{function} is computed")

    monkeypatch.setattr(losses, function, forbidden)
    parts = objective(settings)(output, batch)
    assert getattr(parts, part).item() == 0
    weight = 0.4 if part in ("selection", "contrastive") else 1.0
    torch.testing.assert_close(parts.total, before.total - weight * getattr(before, part))
    with pytest.raises(AssertionError, match=function):
        objective()(output, batch)


def test_a_similarity_is_not_measured_for_nothing(batch: TokenBatch, output: SPTOutput):
    def forbidden(_: TokenBatch) -> Tensor:
        raise AssertionError("measured")

    objective({"contrastive": {"weight": 0}}, similarity=forbidden)(output, batch)
    with pytest.raises(AssertionError, match="measured"):
        objective(similarity=forbidden)(output, batch)


# The contrastive loss.


def test_turns_of_one_dialogue_are_no_pair_by_default(batch: TokenBatch, output: SPTOutput):
    """Only one dialogue in the batch: no pair is left; with same_dialogue, every pair counts."""
    alone = replace(batch, dialogues=(batch.dialogues[0],) * batch.examples)
    assert objective()(output, alone).contrastive.item() == 0
    with_pairs = objective({"contrastive": {"same_dialogue": True}})(output, alone)
    pure = losses.contrastive_loss(output.scores, similarity=persona_match(alone), threshold=20)
    torch.testing.assert_close(with_pairs.contrastive, pure)
    assert pure.item() > 0


def test_same_dialogue_goes_by_the_dialogue_not_by_its_persona(batch: TokenBatch, output: SPTOutput):
    everyone = tuple(replace(talk, persona=("i row .",)) for talk in batch.dialogues)
    parts = objective()(output, replace(batch, dialogues=everyone))
    pure = losses.contrastive_loss(
        output.scores, similarity=torch.full((8, 8), 100.0), threshold=20, mask=different(batch)
    )
    torch.testing.assert_close(parts.contrastive, pure)


def test_fusion_of_logits_is_the_models_own(batch: TokenBatch, output: SPTOutput):
    """Where the model gives the log-probabilities of the score-weighted logits, their mean is the loss."""
    fused = -torch.arange(1.0, len(batch.target_ids) + 1)
    rule = objective({"fusion": {"kind": "score_weighted_logits"}})
    assert rule.fuses_logits
    assert not objective().fuses_logits
    assert not objective({"fusion": {"kind": "score_weighted_logits", "weight": 0}}).fuses_logits
    parts = rule(replace(output, fused_logprobs=fused), batch)
    assert parts.fusion.item() == pytest.approx((len(fused) + 1) / 2)


# Responsibilities.


@pytest.mark.parametrize(
    ("progress", "anneal", "share"),
    [(0.0, 0.5, 0.0), (0.25, 0.5, 0.5), (0.5, 0.5, 1.0), (0.9, 0.5, 1.0), (0.0, 0.0, 1.0)],
)
def test_responsibilities_anneal_with_progress(
    batch: TokenBatch, output: SPTOutput, progress: float, anneal: float, share: float
):
    settings = {"update": "responsibility", "responsibility_temperature": 0.3, "responsibility_anneal": anneal}
    parts = objective(settings)(output, batch, progress=progress)
    weights = losses.responsibility_weights(parts.nll, temperature=0.3, share=share)
    pure = losses.llm_loss(output.target_logprobs, weights=weights, example=batch.target_example)
    torch.testing.assert_close(parts.llm, pure)


def test_responsibilities_begin_as_the_published_update(batch: TokenBatch, output: SPTOutput):
    published, own = objective(), objective({"update": "responsibility"})
    torch.testing.assert_close(own(output, batch, progress=0).llm, published(output, batch, progress=0).llm)
    assert own(output, batch, progress=1).llm.item() < published(output, batch, progress=1).llm.item()
    torch.testing.assert_close(published(output, batch, progress=1).total, published(output, batch).total)


# The teacher's noise.

NOISY = {"selection": {"teacher_noise": 0.5}}


def test_noise_depends_on_seed_and_step_alone(batch: TokenBatch, output: SPTOutput):
    def selection(seed: int, step: int) -> float:
        torch.manual_seed(int(torch.randint(1000, (1,))))  # whatever else draws numbers
        return objective(NOISY, seed=seed)(output, batch, step=step).selection.item()

    assert selection(3, 7) == selection(3, 7)
    assert len({selection(seed, step) for seed in range(4) for step in range(4)}) == 16


def test_noise_leaves_global_generators_and_other_parts_alone(batch: TokenBatch, output: SPTOutput):
    state = torch.get_rng_state()
    noisy, plain = objective(NOISY)(output, batch, step=1), objective()(output, batch, step=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert noisy.selection.item() != plain.selection.item()
    for part in ("llm", "contrastive", "fusion"):
        assert torch.equal(getattr(noisy, part), getattr(plain, part))
    assert torch.equal(noisy.nll, plain.nll), "the monitor sees losses without noise"


# Objectives under the gate.


def pure_gated(name: str, scores: Tensor, output: SPTOutput, batch: TokenBatch) -> Tensor:
    sums = losses.example_sums(output.target_logprobs, example=batch.target_example, examples=batch.examples)
    log_gate, tokens = losses.gate(scores, temperature=0.3), len(batch.target_ids)
    if name == "mixture":
        return losses.mixture_loss(log_gate, sums, tokens=tokens)
    return losses.expected_loss(log_gate, sums, tokens=tokens, uniform_share=0.2)


@pytest.mark.parametrize("name", GATED)
def test_a_gated_objective_is_the_pure_loss_in_the_place_of_the_mean(batch: TokenBatch, output: SPTOutput, name: str):
    settings = GATED[name] | {"llm_weight": 0.5, "balance_weight": 0.25}
    parts, published = objective(settings)(output, batch), objective()(output, batch)
    balance = losses.balance_loss(losses.gate(output.scores, temperature=0.3))
    torch.testing.assert_close(parts.llm, pure_gated(name, output.scores, output, batch))
    torch.testing.assert_close(parts.balance, balance)
    assert balance.item() > 0
    for part in ("selection", "contrastive", "fusion", "nll"):
        torch.testing.assert_close(getattr(parts, part), getattr(published, part))
    rest = 0.4 * parts.selection + 0.4 * parts.contrastive + parts.fusion
    torch.testing.assert_close(parts.total, 0.5 * parts.llm + rest + 0.25 * balance)


@pytest.mark.parametrize("name", GATED)
def test_a_gated_objective_trains_scores_and_prompts(batch: TokenBatch, output: SPTOutput, name: str):
    objective(GATED[name])(output, batch).llm.backward()
    for tensor in (output.target_logprobs, output.scores):
        assert tensor.grad is not None
        assert bool(tensor.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", GATED)
def test_of_one_prompt_every_objective_is_the_mean(batch: TokenBatch, output: SPTOutput, name: str):
    alone = SPTOutput(output.target_logprobs[:1], output.scores[:, :1])
    torch.testing.assert_close(objective(GATED[name])(alone, batch).llm, objective()(alone, batch).llm)


def test_nothing_is_balanced_without_a_weight(batch: TokenBatch, output: SPTOutput, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(losses, "balance_loss", None)
    assert objective(GATED["mixture"])(output, batch).balance.item() == 0


# Regret.


def test_regret_takes_the_place_of_the_divergence(batch: TokenBatch, output: SPTOutput):
    settings = {"selection": {"kind": "regret", "weight": 0.7, "student_temperature": 0.2}}
    parts, published = objective(settings)(output, batch), objective()(output, batch)
    pure = losses.regret_loss(output.scores, parts.nll, temperature=0.2)
    torch.testing.assert_close(parts.selection, pure)
    torch.testing.assert_close(parts.total - 0.7 * pure, published.total - 0.4 * published.selection)


# Shuffled teachers.

SHUFFLED = {"shuffle_teachers": True, "selection": {"student_temperature": 0.2}}


def test_a_shuffled_context_learns_from_the_losses_of_another(batch: TokenBatch, output: SPTOutput):
    """The loss is that of the scores in a random order, which depends on (seed, step) alone."""

    def order(seed: int, step: int) -> list[int]:
        rule, taken = objective(SHUFFLED, seed=seed), []
        original = losses.selection_loss
        torch.manual_seed(int(torch.randint(1000, (1,))))  # whatever else draws numbers
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "selection_loss", lambda s, *a, **k: (taken.append(s), original(s, *a, **k))[1])
            rule(output, batch, step=step)
        return [int((output.scores == row).all(1).nonzero()) for row in taken[0]]

    orders = {(seed, step): order(seed, step) for seed in range(3) for step in range(4)}
    assert all(sorted(found) == list(range(8)) for found in orders.values())
    assert len({tuple(found) for found in orders.values()}) == len(orders)
    assert order(1, 2) == orders[1, 2]


@pytest.mark.parametrize("settings", [{}, GATED["mixture"], GATED["expected"], {"selection": {"kind": "regret"}}])
def test_all_that_teaches_is_shuffled_and_nothing_else(batch: TokenBatch, output: SPTOutput, settings: dict[str, Any]):
    plain = objective(settings)(output, batch, step=3)
    shuffled = objective({**settings, "shuffle_teachers": True})(output, batch, step=3)
    assert shuffled.selection.item() != plain.selection.item()
    assert (shuffled.llm.item() != plain.llm.item()) == ("objective" in settings)
    for part in ("contrastive", "fusion", "nll"):
        assert torch.equal(getattr(shuffled, part), getattr(plain, part))


def test_shuffled_teachers_teach_nothing_on_average(batch: TokenBatch, output: SPTOutput):
    """The mean gradient over many steps is the same for every context: it depends on none of them."""
    rule = objective({**SHUFFLED, "contrastive": {"weight": 0}, "fusion": {"weight": 0}})
    constant = replace(output, scores=torch.ones_like(output.scores).requires_grad_())
    gradients = []
    for step in range(300):
        (gradient,) = torch.autograd.grad(rule(constant, batch, step=step).selection, constant.scores)
        gradients.append(gradient)
    mean = torch.stack(gradients).mean(0)
    plain = objective({"selection": SHUFFLED["selection"]})
    (single,) = torch.autograd.grad(plain(constant, batch).selection, constant.scores)
    assert mean.std(0).max() < 0.1 * single.std(0).max()


# The shared start.


def test_while_the_prompts_are_one_only_their_likelihood_counts(batch: TokenBatch, output: SPTOutput):
    alone = replace(output, target_logprobs=output.target_logprobs[1:2].detach().requires_grad_())
    parts = objective({"llm_weight": 0.5, "balance_weight": 0.3, **GATED["mixture"]}).shared(alone, batch)
    torch.testing.assert_close(parts.llm, -alone.target_logprobs.mean())
    torch.testing.assert_close(parts.total, 0.5 * parts.llm)
    assert [getattr(parts, part).item() for part in ("selection", "contrastive", "fusion", "balance")] == [0, 0, 0, 0]
    wanted = losses.example_nll(alone.target_logprobs, example=batch.target_example, examples=batch.examples)
    assert torch.equal(parts.nll, wanted.expand(-1, K))
    assert not parts.nll.requires_grad
    assert objective({"llm_weight": 0}).shared(alone, batch).total.requires_grad, "or nothing would be learned"


def test_gradients_go_where_they_belong(batch: TokenBatch, output: SPTOutput):
    """Scores learn from selection and contrast, the language model's side from its own losses and fusion alone."""
    parts = objective()(output, batch)
    (parts.selection + parts.contrastive).backward()
    assert output.target_logprobs.grad is None
    assert output.scores.grad is not None
    assert bool(output.scores.grad.abs().sum() > 0)


def test_a_dialogue_of_one_turn_alone_is_no_trouble(tiny_model: Callable[..., SPTModel]):
    encoder = tiny_model().encoder
    batch = collate(encoder.encode(Dialogue("a", (), (Turn("hi", "hello"),))), stop_id=encoder.stop_id)
    tokens = len(batch.target_ids)
    parts = objective()(SPTOutput(-torch.ones(K, tokens), torch.ones(1, K)), batch)
    assert parts.contrastive.item() == 0
    assert parts.total.item() == pytest.approx(1 + 0 + 0 + 1)
