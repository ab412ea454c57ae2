"""The losses: numbers worked by hand, and what must hold whatever the numbers are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sptune.losses import (
    balance_loss,
    contrastive_loss,
    example_nll,
    example_sums,
    example_tokens,
    expected_loss,
    fusion_loss,
    gate,
    llm_loss,
    mixture_loss,
    regret_loss,
    responsibility_weights,
    selection_loss,
)

K, N, EXAMPLES = 4, 30, 5


@pytest.fixture
def logprobs() -> Tensor:
    """(K, N) log-probabilities of N tokens, which belong to `EXAMPLE`."""
    return -torch.rand(K, N, generator=torch.Generator().manual_seed(0)) * 5


EXAMPLE = torch.arange(N) % EXAMPLES
EXAMPLE = EXAMPLE.sort().values


def similarity_of(n: int, seed: int = 0) -> Tensor:
    """A symmetric (n, n) similarity in 0..100."""
    half = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) * 50
    return half + half.T


def scores_of(n: int, k: int = K, seed: int = 1) -> Tensor:
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed))


# Examples.


def test_example_nll_by_hand():
    """Example 0 has tokens -1, -3 under prompt 0 and -2, -2 under prompt 1; example 1 has -4 and -5."""
    values = torch.tensor([[-1.0, -3.0, -4.0], [-2.0, -2.0, -5.0]])
    example = torch.tensor([0, 0, 1])
    assert example_nll(values, example=example, examples=2).tolist() == [[2.0, 2.0], [4.0, 5.0]]
    assert example_sums(values, example=example, examples=2).tolist() == [[-4.0, -4.0], [-4.0, -5.0]]
    assert example_tokens(example, 2).tolist() == [2, 1]


def test_an_examples_nll_does_not_depend_on_its_batch(logprobs: Tensor):
    together = example_nll(logprobs, example=EXAMPLE, examples=EXAMPLES)
    for i in range(EXAMPLES):
        own = logprobs[:, i == EXAMPLE]
        alone = example_nll(own, example=torch.zeros(own.shape[1], dtype=torch.long), examples=1)
        torch.testing.assert_close(alone[0], together[i])


def test_the_order_of_tokens_and_prompts_does_not_matter(logprobs: Tensor):
    tokens = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    prompts = torch.tensor([2, 0, 3, 1])
    straight = example_nll(logprobs, example=EXAMPLE, examples=EXAMPLES)
    mixed = example_nll(logprobs[prompts][:, tokens], example=EXAMPLE[tokens], examples=EXAMPLES)
    torch.testing.assert_close(mixed, straight[:, prompts])
    torch.testing.assert_close(llm_loss(logprobs[prompts][:, tokens]), llm_loss(logprobs))
    torch.testing.assert_close(fusion_loss(logprobs[prompts][:, tokens]), fusion_loss(logprobs))


# LLM loss and responsibilities.


def test_llm_loss_by_hand():
    """Mean of 1, 2, 3 and 2 is 2. With weights 0.9, 0.1: (0.9 x 1 + 0.1 x 3 + 0.9 x 2 + 0.1 x 2) / 2 = 1.6."""
    values = torch.tensor([[-1.0, -2.0], [-3.0, -2.0]])
    assert float(llm_loss(values)) == 2.0
    weights = torch.tensor([[0.9, 0.1]])
    assert float(llm_loss(values, weights=weights, example=torch.tensor([0, 0]))) == pytest.approx(1.6)


def test_uniform_weights_are_no_weights(logprobs: Tensor):
    uniform = torch.full((EXAMPLES, K), 1 / K)
    torch.testing.assert_close(llm_loss(logprobs, weights=uniform, example=EXAMPLE), llm_loss(logprobs))


def test_a_prompt_of_weight_zero_is_a_prompt_dropped(logprobs: Tensor):
    weights = torch.tensor([0.5, 0.0, 0.5, 0.0]).expand(EXAMPLES, K)
    torch.testing.assert_close(llm_loss(logprobs, weights=weights, example=EXAMPLE), llm_loss(logprobs[[0, 2]]))


def test_weights_need_the_examples(logprobs: Tensor):
    with pytest.raises(ValueError, match="example: missing"):
        llm_loss(logprobs, weights=torch.ones(EXAMPLES, K))


def test_responsibilities_by_hand():
    """exp(-1) : exp(-2) is 1 : 1/e, so prompt 0 has e / (e + 1) = 0.731 of the example; at share 0.5, 0.25 + 0.366."""
    nll = torch.tensor([[1.0, 2.0]])
    assert responsibility_weights(nll, temperature=1).tolist()[0] == pytest.approx([0.731059, 0.268941], abs=1e-5)
    assert responsibility_weights(nll, temperature=1, share=0.5).tolist()[0] == pytest.approx(
        [0.615529, 0.384471], abs=1e-5
    )
    assert responsibility_weights(nll, temperature=1, share=0).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_responsibilities_are_detached_distributions(logprobs: Tensor, share: float, temperature: float):
    nll = example_nll(logprobs.requires_grad_(), example=EXAMPLE, examples=EXAMPLES)
    weights = responsibility_weights(nll, temperature=temperature, share=share)
    assert not weights.requires_grad
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(EXAMPLES))


# Selection.


def test_selection_loss_by_hand():
    """Teacher softmax(-[1, 2]) = (0.731, 0.269), student softmax([0, 0]) = (0.5, 0.5): KL = log 2 - H = 0.1109."""
    loss = selection_loss(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]))
    p = math.e / (math.e + 1)
    assert float(loss) == pytest.approx(math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p), abs=1e-6)


def test_selection_is_a_divergence():
    nll = scores_of(6, seed=2) * 3
    assert float(selection_loss(scores_of(6), nll)) > 0
    assert float(selection_loss(-nll + 7, nll)) == pytest.approx(0, abs=1e-6)
    assert float(selection_loss(-nll * 2, nll, teacher_temperature=0.5)) == pytest.approx(0, abs=1e-6)
    assert float(selection_loss(-nll / 5, nll, student_temperature=0.2)) == pytest.approx(0, abs=1e-6)


def test_the_selection_loss_is_a_batch_mean():
    nll, scores = scores_of(6, seed=2) * 3, scores_of(6)
    each = [selection_loss(scores[i : i + 1], nll[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(selection_loss(scores, nll), torch.stack(each).mean())


def test_the_teacher_gets_no_gradient():
    nll = (scores_of(6, seed=2) * 3).requires_grad_()
    scores = scores_of(6).requires_grad_()
    selection_loss(scores, nll).backward()
    assert nll.grad is None
    assert scores.grad is not None
    assert scores.grad.abs().sum() > 0


def test_noise_is_added_to_the_teachers_losses():
    nll, scores, noise = scores_of(3, seed=2), scores_of(3), scores_of(3, seed=4)
    torch.testing.assert_close(selection_loss(scores, nll, noise=noise), selection_loss(scores, nll + noise))
    assert not torch.allclose(selection_loss(scores, nll, noise=noise), selection_loss(scores, nll))


# Contrastive.


def test_contrastive_loss_by_hand():
    """cos([1, 0], [1, 1]) = 0.7071. Alike and attracted: 0.2929. Unlike, or repelled: 0.7071."""
    scores = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    alike, unlike = torch.full((2, 2), 21.0), torch.full((2, 2), 20.0)  # the threshold itself is not similar
    root = math.sqrt(0.5)
    assert float(contrastive_loss(scores, similarity=alike, threshold=20)) == pytest.approx(1 - root, abs=1e-6)
    assert float(contrastive_loss(scores, similarity=unlike, threshold=20)) == pytest.approx(root, abs=1e-6)
    assert float(contrastive_loss(scores, similarity=alike, threshold=20, similar="repel")) == pytest.approx(
        root, abs=1e-6
    )
    assert float(contrastive_loss(scores, similarity=unlike, threshold=20, similar="repel")) == pytest.approx(
        1 - root, abs=1e-6
    )


def test_opposite_scores_cost_nothing_where_they_must_differ():
    scores = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert float(contrastive_loss(scores, similarity=torch.zeros(2, 2), threshold=20)) == 0


def test_attract_and_repel_mirror_each_other():
    scores, similarity = scores_of(7), similarity_of(7)
    mirrored = 100 - similarity
    attract = contrastive_loss(scores, similarity=similarity, threshold=50)
    repel = contrastive_loss(scores, similarity=mirrored, threshold=50, similar="repel")
    torch.testing.assert_close(attract, repel)
    assert not torch.allclose(attract, contrastive_loss(scores, similarity=similarity, threshold=50, similar="repel"))


def test_a_masked_pair_is_a_pair_dropped():
    scores, similarity = scores_of(6), similarity_of(6)
    kept = torch.tensor([0, 2, 3, 5])
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[kept[:, None], kept] = True
    masked = contrastive_loss(scores, similarity=similarity, threshold=50, mask=mask)
    dropped = contrastive_loss(scores[kept], similarity=similarity[kept[:, None], kept], threshold=50)
    torch.testing.assert_close(masked, dropped)


def test_the_order_of_contexts_does_not_matter():
    scores, similarity = scores_of(6), similarity_of(6)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    mixed = contrastive_loss(scores[order], similarity=similarity[order[:, None], order], threshold=50)
    torch.testing.assert_close(mixed, contrastive_loss(scores, similarity=similarity, threshold=50))


def test_the_diagonal_never_counts():
    scores, similarity = scores_of(3), similarity_of(3)
    changed = similarity.clone().fill_diagonal_(0)
    torch.testing.assert_close(
        contrastive_loss(scores, similarity=changed, threshold=50),
        contrastive_loss(scores, similarity=similarity, threshold=50),
    )
    only_diagonal = torch.eye(3, dtype=torch.bool)
    assert float(contrastive_loss(scores, similarity=similarity, threshold=50, mask=only_diagonal)) == 0
    assert float(contrastive_loss(scores[:1], similarity=similarity[:1, :1], threshold=50)) == 0


# Fusion.


def test_fusion_loss_by_hand():
    """The average of 0.5 and 0.25 is 0.375, of 0.1 and 0.3 it is 0.2: (-log 0.375 - log 0.2) / 2 = 1.2951."""
    values = torch.tensor([[0.5, 0.1], [0.25, 0.3]]).log()
    assert float(fusion_loss(values)) == pytest.approx((-math.log(0.375) - math.log(0.2)) / 2, abs=1e-6)


def test_fusion_is_never_above_the_llm_loss_and_equals_it_where_prompts_agree(logprobs: Tensor):
    assert float(fusion_loss(logprobs)) < float(llm_loss(logprobs))
    torch.testing.assert_close(fusion_loss(logprobs[:1].expand(K, -1)), llm_loss(logprobs[:1]))
    torch.testing.assert_close(fusion_loss(logprobs[:1]), llm_loss(logprobs[:1]))


# The gate: mean and mixture under it.


def one_hot(prompts: list[int], k: int = K) -> Tensor:
    """log pi of a gate that is sure: (n, k)."""
    return torch.nn.functional.one_hot(torch.tensor(prompts), k).float().log()


def test_a_gate_by_hand():
    """Scores 0 and 0.1 at temperature 0.1: softmax([0, 1]) = 1 / (1 + e), e / (1 + e)."""
    found = gate(torch.tensor([[0.0, 0.1]]), temperature=0.1).exp()
    assert found.tolist()[0] == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])


def test_mixture_and_expected_loss_by_hand():
    """Two examples of 3 tokens in all. Likelihoods 0.5, 0.25 under gate (0.2, 0.8): 0.3; and 0.1, 0.4 under (0.5, 0.5): 0.25.

    Expected: 0.2 log 0.5 + 0.8 log 0.25 + 0.5 log 0.1 + 0.5 log 0.4; a third of the gate even: weights 0.3, 0.7 in the first example.
    """
    log_gate = torch.tensor([[0.2, 0.8], [0.5, 0.5]]).log()
    sums = torch.tensor([[0.5, 0.25], [0.1, 0.4]]).log()
    mixture = mixture_loss(log_gate, sums, tokens=3)
    assert float(mixture) == pytest.approx(-(math.log(0.3) + math.log(0.25)) / 3)
    second = 0.5 * math.log(0.1) + 0.5 * math.log(0.4)
    expected = expected_loss(log_gate, sums, tokens=3)
    assert float(expected) == pytest.approx(-(0.2 * math.log(0.5) + 0.8 * math.log(0.25) + second) / 3)
    partly = expected_loss(log_gate, sums, tokens=3, uniform_share=1 / 3)
    assert float(partly) == pytest.approx(-(0.3 * math.log(0.5) + 0.7 * math.log(0.25) + second) / 3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.01, 0.3, 10.0])
def test_the_mixture_is_never_above_the_mean_under_its_gate(seed: int, temperature: float):
    """Jensen's inequality; equal where the prompts agree."""
    log_gate = gate(scores_of(6, seed=seed), temperature=temperature)
    sums = -30 * scores_of(6, seed=seed + 100)
    assert float(mixture_loss(log_gate, sums, tokens=40)) < float(expected_loss(log_gate, sums, tokens=40))
    alike = sums[:, :1].expand(-1, K)
    torch.testing.assert_close(mixture_loss(log_gate, alike, tokens=40), expected_loss(log_gate, alike, tokens=40))


def test_a_sure_gate_leaves_the_loss_of_its_prompt(logprobs: Tensor):
    chosen = [2, 0, 3, 3, 1]
    sums = example_sums(logprobs, example=EXAMPLE, examples=EXAMPLES).requires_grad_()
    own = -sums.detach()[torch.arange(EXAMPLES), chosen].sum() / N
    for loss in (
        mixture_loss(one_hot(chosen), sums, tokens=N),
        expected_loss(one_hot(chosen), sums, tokens=N),
    ):
        torch.testing.assert_close(loss, own)
        (gradient,) = torch.autograd.grad(loss, sums)
        torch.testing.assert_close(gradient, -one_hot(chosen).exp() / N)


def test_an_even_gate_gives_the_mean_loss(logprobs: Tensor):
    even = gate(torch.zeros(EXAMPLES, K), temperature=0.1)
    sums = example_sums(logprobs, example=EXAMPLE, examples=EXAMPLES)
    torch.testing.assert_close(expected_loss(even, sums, tokens=N), llm_loss(logprobs))
    uneven = gate(scores_of(EXAMPLES), temperature=0.1)
    torch.testing.assert_close(expected_loss(uneven, sums, tokens=N, uniform_share=1.0), llm_loss(logprobs))


def test_of_one_prompt_all_objectives_are_its_mean_loss(logprobs: Tensor):
    alone = logprobs[:1]
    log_gate = gate(scores_of(EXAMPLES, 1), temperature=0.1)
    sums = example_sums(alone, example=EXAMPLE, examples=EXAMPLES)
    wanted = llm_loss(alone)
    torch.testing.assert_close(mixture_loss(log_gate, sums, tokens=N), wanted)
    torch.testing.assert_close(expected_loss(log_gate, sums, tokens=N, uniform_share=0.3), wanted)
    torch.testing.assert_close(fusion_loss(alone), wanted)
    assert float(balance_loss(log_gate)) == 0
    assert float(regret_loss(scores_of(EXAMPLES, 1), -sums)) == 0


def test_the_mixture_trains_prompts_by_their_posterior_and_the_gate_towards_it():
    """d/d sums = -posterior / N, d/d scores = (gate - posterior) / (temperature N)."""
    scores, sums = scores_of(6).requires_grad_(), (-9 * scores_of(6, seed=3)).requires_grad_()
    log_gate = gate(scores, temperature=0.2)
    mixture_loss(log_gate, sums, tokens=40).backward()
    posterior = (log_gate + sums).softmax(1).detach()
    torch.testing.assert_close(sums.grad, -posterior / 40)
    torch.testing.assert_close(scores.grad, (log_gate.exp() - posterior).detach() / (0.2 * 40))


def test_gradients_of_the_gated_losses_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(4)
    scores = torch.rand(3, K, generator=generator, dtype=torch.float64, requires_grad=True)
    sums = (-5 * torch.rand(3, K, generator=generator, dtype=torch.float64)).requires_grad_()

    nll = -sums.detach()

    def losses(scores: Tensor, sums: Tensor) -> tuple[Tensor, ...]:
        log_gate = gate(scores, temperature=0.3)
        return (
            mixture_loss(log_gate, sums, tokens=7),
            expected_loss(log_gate, sums, tokens=7, uniform_share=0.2),
            balance_loss(log_gate),
            regret_loss(scores, nll, temperature=0.3),
        )

    assert torch.autograd.gradcheck(losses, (scores, sums))


def test_an_example_counts_by_its_tokens(logprobs: Tensor):
    """Both are sums over responses divided by tokens, so the losses of parts of a batch add up by their tokens."""
    log_gate = gate(scores_of(EXAMPLES), temperature=0.1)
    sums = example_sums(logprobs, example=EXAMPLE, examples=EXAMPLES)
    for loss in (mixture_loss, expected_loss):
        parts = loss(log_gate[:2], sums[:2], tokens=12) * 12 + loss(log_gate[2:], sums[2:], tokens=18) * 18
        torch.testing.assert_close(loss(log_gate, sums, tokens=N), parts / N)


# Balance.


def test_balance_is_zero_when_even_and_log_k_when_collapsed():
    assert float(balance_loss(one_hot([0, 1, 2, 3]))) == pytest.approx(0, abs=1e-6)
    assert float(balance_loss(gate(torch.zeros(3, K), temperature=1))) == pytest.approx(0, abs=1e-6)
    assert float(balance_loss(one_hot([2, 2, 2]))) == pytest.approx(math.log(K))
    assert float(balance_loss(one_hot([0, 0, 1, 1]))) == pytest.approx(math.log(2))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 10.0])
def test_balance_is_between_zero_and_log_k(seed: int, temperature: float):
    loss = float(balance_loss(gate(scores_of(5, seed=seed), temperature=temperature)))
    assert 0 <= loss <= math.log(K) + 1e-6


def test_the_balance_term_pushes_away_from_the_prompt_that_is_used_too_much():
    scores = torch.tensor([[0.4, 0.1], [0.3, 0.2]], requires_grad=True)
    balance_loss(gate(scores, temperature=0.1)).backward()
    assert (scores.grad[:, 0] > 0).all()
    assert (scores.grad[:, 1] < 0).all()


# Regret.


def test_regret_by_hand():
    """Gates (0.5, 0.5) and (0.25, 0.75) over losses (1, 3) and (2, 1): regrets 0.5 x 2 and 0.25 x 1, of mean 0.625."""
    scores = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    assert float(regret_loss(scores, torch.tensor([[1.0, 3.0], [2.0, 1.0]]))) == pytest.approx(0.625)


def test_regret_is_zero_only_on_the_best_prompt():
    nll = scores_of(6, seed=2) * 3
    best = one_hot(nll.argmin(1).tolist()).exp()
    assert float(regret_loss(best, nll, temperature=1e-3)) == pytest.approx(0, abs=1e-6)
    assert float(regret_loss(-best, nll, temperature=1e-3)) > 0.1
    assert float(regret_loss(scores_of(6), torch.full((6, K), 2.5))) == 0


def test_regret_trains_the_scores_alone_and_by_what_each_prompt_costs():
    """d/d s_ik = pi_ik (regret_ik - mean regret_i) / (n temperature)."""
    nll, scores = (scores_of(6, seed=2) * 3).requires_grad_(), scores_of(6).requires_grad_()
    regret_loss(scores, nll, temperature=0.5).backward()
    assert nll.grad is None
    pi = (scores.detach() / 0.5).softmax(1)
    regret = (nll - nll.min(1, keepdim=True).values).detach()
    wanted = pi * (regret - (pi * regret).sum(1, keepdim=True)) / (6 * 0.5)
    torch.testing.assert_close(scores.grad, wanted)


# All of them.


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("zero_scores", [False, True])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 3), (4, 1), (4, 5)])
def test_losses_and_gradients_are_finite(k: int, n: int, zero_scores: bool, scale: float):
    example = torch.arange(3 * n) % n
    values = (-torch.rand(k, 3 * n, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()
    scores = (scores_of(n, k) * (not zero_scores)).requires_grad_()
    nll = example_nll(values, example=example, examples=n)
    weights = responsibility_weights(nll, temperature=0.1)
    log_gate, sums = gate(scores, temperature=0.1), example_sums(values, example=example, examples=n)
    losses = [
        mixture_loss(log_gate, sums, tokens=3 * n),
        expected_loss(log_gate, sums, tokens=3 * n, uniform_share=0.1),
        balance_loss(log_gate),
        regret_loss(scores, nll, temperature=0.1),
        llm_loss(values),
        llm_loss(values, weights=weights, example=example),
        selection_loss(scores, nll, teacher_temperature=0.1),
        contrastive_loss(scores, similarity=similarity_of(n), threshold=50),
        fusion_loss(values),
    ]
    assert all(torch.isfinite(loss) for loss in losses)
    sum(losses).backward()
    assert torch.isfinite(values.grad).all()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().max() < 10 * max(100, scale)
