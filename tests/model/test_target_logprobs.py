"""Target log-probabilities without (N, V) tensors: the same numbers and gradients as with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sptune.model.target_logprobs import target_logprobs, weighted_logits_logprobs

M, H, V, K = 37, 8, 50, 3


def make_head(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(H, V, dtype=dtype).requires_grad_(False)


def random_hidden(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, H, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def random_targets(count: int = M) -> Tensor:
    return torch.randint(V, (count,), generator=torch.Generator().manual_seed(2))


def gradients(result: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a sum with a different weight on every row."""
    return torch.autograd.grad((result * torch.linspace(-1, 2, result.numel())).sum(), inputs)


@pytest.mark.parametrize("chunk", [1, 7, M, 1000])
def test_values_and_gradients_are_those_of_log_softmax(chunk: int):
    head, hidden, targets = make_head(), random_hidden(M), random_targets()
    wanted = head(hidden).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    result = target_logprobs(hidden, targets, head=head, chunk=chunk)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, wanted.float(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients(result, hidden), gradients(wanted, hidden), atol=1e-6, rtol=1e-5)


def test_the_chunk_size_does_not_matter():
    head, hidden, targets = make_head(), random_hidden(M), random_targets()
    results = [target_logprobs(hidden, targets, head=head, chunk=chunk) for chunk in (3, 64)]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(gradients(results[0], hidden), gradients(results[1], hidden))


def test_a_number_by_hand():
    """A head of identity: logits are the hidden state, so log p = 1 - log(e + 1) = -0.3133."""
    head = nn.Linear(2, 2, bias=False).requires_grad_(False)
    head.weight.copy_(torch.eye(2))
    result = target_logprobs(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), head=head)
    assert result.tolist() == pytest.approx([-0.313262], abs=1e-6)


def test_extreme_logits_stay_finite():
    head, targets = make_head(torch.float32), random_targets()
    hidden = (random_hidden(M, dtype=torch.float32).detach() * 1e5).requires_grad_()
    result = target_logprobs(hidden, targets, head=head)
    assert torch.isfinite(result).all()
    assert result.min() < -1e4
    assert torch.isfinite(gradients(result, hidden)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype):
    head, hidden, targets = make_head(dtype), random_hidden(M, dtype=dtype), random_targets()
    result = target_logprobs(hidden, targets, head=head)
    wanted = head(hidden).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, wanted)
    (gradient,) = gradients(result, hidden)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, gradients(wanted, hidden)[0], atol=0.02, rtol=0.02)


def test_nothing_to_predict():
    head, hidden, targets = make_head(), random_hidden(0), random_targets(0)
    assert target_logprobs(hidden, targets, head=head).shape == (0,)
    assert gradients(target_logprobs(hidden, targets, head=head), hidden)[0].shape == (0, H)
    fused = weighted_logits_logprobs(random_hidden(K, 0), targets, torch.ones(0, K), head=head)
    assert fused.shape == (0,)


def test_without_gradients_nothing_is_kept():
    head, hidden, targets = make_head(), random_hidden(M).detach(), random_targets()
    assert not target_logprobs(hidden, targets, head=head).requires_grad


def test_a_second_derivative_is_refused():
    hidden = random_hidden(M)
    result = target_logprobs(hidden, random_targets(), head=make_head())
    (gradient,) = torch.autograd.grad(result.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("chunk", [1, 7, M, 1000])
def test_weighted_logits_are_those_of_the_naive_sum(chunk: int):
    head, hidden, targets = make_head(), random_hidden(K, M), random_targets()
    weights = torch.rand(M, K, generator=torch.Generator().manual_seed(3)).requires_grad_()
    logits = sum(weights[:, k, None] * head(hidden[k]) for k in range(K))
    wanted = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    result = weighted_logits_logprobs(hidden, targets, weights, head=head, chunk=chunk)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, wanted.float(), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(result, hidden, weights), gradients(wanted, hidden, weights), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


class _Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))])
        return result


@pytest.mark.parametrize("fused", [False, True])
def test_only_a_chunk_of_logits_exists_at_a_time(fused: bool):
    head, hidden, targets, chunk = make_head(), random_hidden(K, M), random_targets(), 4
    with _Largest() as largest:
        if fused:
            result = weighted_logits_logprobs(hidden, targets, torch.ones(M, K), head=head, chunk=chunk)
        else:
            result = target_logprobs(hidden[0], targets, head=head, chunk=chunk)
        result.sum().backward()
    assert largest.numel <= max((K if fused else 1) * chunk * V, K * M * H)
    assert largest.numel < M * V
