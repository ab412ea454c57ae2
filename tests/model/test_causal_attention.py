"""Attention by matrix products: what torch's own kernel gives, forwards and backwards, or left to that kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sptune.model import causal_attention as own
from sptune.model.backbone import Backbone
from tiny import tiny_llama


def inputs(*, groups: int = 2, tokens: int = 11, keys: int | None = None) -> list[Tensor]:
    """Queries of 4 heads, keys and values, d = 8, that want a gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 4, tokens, 8), (3, groups, keys or tokens, 8), (3, groups, keys or tokens, 8)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def layer(groups: int = 2) -> Any:
    return SimpleNamespace(num_key_value_groups=4 // groups, is_causal=True)


def results(attend: Any, groups: int, given: list[Tensor], **options: Any) -> list[Tensor]:
    output, weights = attend(layer(groups), *given, None, **options)
    assert weights is None
    return [output, *torch.autograd.grad(output.sin().sum(), given)]


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of queries of each call of torch's kernel."""
    calls: list[int] = []

    def called(module: Any, query: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, None]:
        calls.append(query.shape[2])
        return sdpa_attention_forward(module, query, *rest, **options)

    monkeypatch.setattr(own, "sdpa_attention_forward", called)
    return calls


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_values_and_gradients_are_those_of_the_kernel(groups: int, scaling: float | None, kernel_calls: list[int]):
    given = inputs(groups=groups)
    found = results(own.causal_attention, groups, given, scaling=scaling)
    assert not kernel_calls
    for ours, theirs in zip(found, results(sdpa_attention_forward, groups, given, scaling=scaling), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    given = [tensor.detach().double().requires_grad_() for tensor in inputs(tokens=4)]
    assert torch.autograd.gradcheck(lambda *qkv: own.causal_attention(layer(), *qkv, None)[0], given)


def test_the_future_is_not_seen():
    given = inputs()
    changed = [tensor.detach().clone().requires_grad_() for tensor in given]
    with torch.no_grad():
        for tensor in changed:
            tensor[:, :, 6:] = 7.0
    (before, _), (after, _) = (own.causal_attention(layer(), *qkv, None) for qkv in (given, changed))
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("case", ["no gradient", "mask", "keys before", "long", "not causal", "autocast"])
def test_all_else_is_left_to_the_kernel(case: str, kernel_calls: list[int], monkeypatch: pytest.MonkeyPatch):
    given = inputs(keys=15 if case == "keys before" else None)
    if case == "long":
        monkeypatch.setattr(own, "MOST_TOKENS", 10)
    mask = torch.ones(3, 1, 11, 11, dtype=torch.bool).tril() if case == "mask" else None
    options = {"is_causal": False} if case == "not causal" else {}
    with (
        torch.set_grad_enabled(case != "no gradient"),
        torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"),
    ):
        queries = given[0] if torch.is_grad_enabled() else given[0].detach()
        found, _ = own.causal_attention(layer(), queries, *given[1:], mask, **options)
        wanted, _ = sdpa_attention_forward(layer(), queries, *given[1:], mask, **options)
    assert kernel_calls == [11]
    assert torch.equal(found, wanted)


def test_a_backbone_trains_by_it_and_generates_by_the_kernel(tiny_tokenizer, kernel_calls: list[int]):
    backbone = Backbone(tiny_llama(len(tiny_tokenizer)), base="tiny")
    kernel_calls.clear()
    embeddings = backbone.embed(torch.arange(12).view(2, 6)).requires_grad_()
    backbone.hidden(embeddings).sum().backward()
    assert not kernel_calls
    with torch.no_grad():
        backbone.hidden(embeddings)
    assert kernel_calls


def test_a_model_that_attends_in_another_way_is_left_alone(tiny_tokenizer):
    model = tiny_llama(len(tiny_tokenizer))
    model.set_attn_implementation("eager")
    assert Backbone(model, base="tiny").model.config._attn_implementation == "eager"
