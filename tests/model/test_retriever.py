"""The retriever: a context's scores are its own, whatever shares its batch, pads it or answers it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sptune.errors import RecipeError
from sptune.model.retriever import Contexts, Retriever

D, K, L = 16, 3, 4
KINDS = ("linear", "mlp", "transformer", "identity")
ACTIVATIONS = ("softplus", "relu", "leaky_relu")


def make_retriever(kind: str = "linear", activation: str = "softplus", *, centred: bool = True) -> Retriever:
    torch.manual_seed(0)
    retriever = Retriever(kind, dim=D, activation=activation)
    if centred:
        retriever.centre.copy_(torch.randn(D))
    return retriever


def rows_of(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, D, generator=generator) for length in lengths]


def batch_of(rows: list[Tensor], *, left: bool = False, extra: int = 0, padding: float = 99.0) -> Contexts:
    """One context a sequence, with padding that would be noticed if it were read."""
    width = max(map(len, rows)) + extra
    embeddings = torch.full((len(rows), width, D), padding)
    length = torch.tensor([len(row) for row in rows])
    start = width - length if left else torch.zeros_like(length)
    for i, row in enumerate(rows):
        embeddings[i, start[i] : start[i] + len(row)] = row
    return Contexts(embeddings, torch.arange(len(rows)), length, start if left else None)


PROMPTS = torch.randn(K, L, D, generator=torch.Generator().manual_seed(2))


# Contexts.


@pytest.mark.parametrize("left", [False, True])
def test_means_are_those_of_the_contexts_own_tokens(left: bool):
    rows = rows_of(5, 1, 9)
    means = batch_of(rows, left=left, extra=3).means()
    assert means.dtype == torch.float32
    torch.testing.assert_close(means, torch.stack([row.mean(0) for row in rows]))


def test_several_contexts_of_one_sequence():
    (row,) = rows_of(12)
    contexts = Contexts(row[None], torch.tensor([0, 0, 0]), torch.tensor([2, 7, 12]))
    torch.testing.assert_close(contexts.means(), torch.stack([row[:n].mean(0) for n in (2, 7, 12)]))
    tokens, mask = contexts.tokens()
    assert mask.sum(1).tolist() == [2, 7, 12]
    for i, n in enumerate((2, 7, 12)):
        assert torch.equal(tokens[i][mask[i]], row[:n])


def test_means_of_long_half_precision_contexts_do_not_drift():
    row = torch.full((4000, D), 1.001).bfloat16()
    assert torch.equal(Contexts(row[None], torch.tensor([0]), torch.tensor([4000])).means(), row[:1].float())


def test_a_mean_is_exactly_the_same_in_every_batch():
    rows = rows_of(5, 40, 9)
    alone = torch.cat([batch_of([row]).means() for row in rows])
    assert torch.equal(batch_of(rows, extra=7).means(), alone)


# Scores.


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_batch_padding_or_what_follows(kind: str, activation: str, centred: bool):
    retriever, rows = make_retriever(kind, activation, centred=centred), rows_of(5, 1, 9, 30)
    alone = torch.cat([retriever(batch_of([row]), PROMPTS) for row in rows])
    assert alone.shape == (4, K)
    for contexts in (
        batch_of(rows),
        batch_of(rows, extra=20),
        batch_of(rows, left=True),
        batch_of(rows, extra=5, padding=float("inf") if kind == "transformer" else -99.0),
    ):
        torch.testing.assert_close(retriever(contexts, PROMPTS), alone, atol=1e-6, rtol=0)
    order = torch.tensor([3, 1, 0, 2])
    mixed = retriever(batch_of([rows[i] for i in order]), PROMPTS)
    torch.testing.assert_close(mixed, alone[order], atol=1e-6, rtol=0)
    followed = Contexts(torch.cat([rows[0], rows[3]])[None], torch.tensor([0]), torch.tensor([5]))
    torch.testing.assert_close(retriever(followed, PROMPTS), alone[:1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mode_does_not_matter(kind: str):
    """No dropout, and PyTorch's fast path for inference gives the same numbers."""
    retriever, contexts = make_retriever(kind), batch_of(rows_of(5, 1, 9))
    training = retriever.train()(contexts, PROMPTS)
    with torch.no_grad():
        inference = retriever.eval()(contexts, PROMPTS)
    torch.testing.assert_close(inference, training, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_scored_one_by_one(kind: str):
    retriever, contexts = make_retriever(kind), batch_of(rows_of(5, 2))
    each = [retriever(contexts, PROMPTS[k : k + 1]) for k in range(K)]
    torch.testing.assert_close(retriever(contexts, PROMPTS), torch.cat(each, dim=1), atol=1e-6, rtol=0)


def test_a_score_by_hand():
    """Identity; context mean (3, 4), prompts (1, 0), (0, -1): cosines 0.6 and -0.8.

    softplus is log(1 + exp(10 x)) / 10 up to 10 x = 1, then x itself: 0.6 and 0.0000335.
    """
    prompts = torch.tensor([[[1.0, 0.0]], [[0.0, -1.0]]])
    contexts = Contexts(torch.tensor([[[2.0, 2.0], [4.0, 6.0]]]), torch.tensor([0]), torch.tensor([2]))
    wanted = {"softplus": [0.6, math.log1p(math.exp(-8)) / 10], "relu": [0.6, 0.0], "leaky_relu": [0.6, -0.008]}
    for activation, scores in wanted.items():
        retriever = Retriever("identity", dim=2, activation=activation)
        assert retriever(contexts, prompts)[0].tolist() == pytest.approx(scores, abs=1e-6)
    retriever.centre.copy_(torch.tensor([3.0, 3.0]))  # the context is then (0, 1)
    assert retriever(contexts, prompts)[0].tolist() == pytest.approx([0.0, -0.01])


@pytest.mark.parametrize("kind", KINDS)
def test_the_centre_is_that_of_contexts_alone(kind: str):
    retriever, contexts = make_retriever(kind, centred=False), batch_of(rows_of(5, 9))
    before, prompts = retriever.encode_contexts(contexts), retriever.encode_prompts(PROMPTS)
    retriever.centre.copy_(torch.linspace(-1, 1, D))
    assert not torch.allclose(retriever.encode_contexts(contexts), before)
    assert torch.equal(retriever.encode_prompts(PROMPTS), prompts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_centre_is_saved_but_not_trained(kind: str):
    retriever = make_retriever(kind)
    assert "centre" in retriever.state_dict()
    assert "centre" not in dict(retriever.named_parameters())


@pytest.mark.parametrize(("kind", "activation"), list(itertools.product(KINDS, ACTIVATIONS)))
def test_gradients_are_finite_and_reach_prompts_and_map(kind: str, activation: str):
    retriever = make_retriever(kind, activation)
    prompts = PROMPTS.clone().requires_grad_()
    contexts = batch_of([*rows_of(5, 9), torch.zeros(3, D)])
    retriever(contexts, prompts).square().sum().backward()
    assert torch.isfinite(prompts.grad).all()
    assert prompts.grad.abs().sum() > 0
    for name, parameter in retriever.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_without_virtual_tokens_there_is_nothing_to_choose(kind: str):
    scores = make_retriever(kind, "relu")(batch_of(rows_of(5, 9)), torch.zeros(K, 0, D))
    assert torch.equal(scores, torch.zeros(2, K))


@pytest.mark.parametrize("kind", KINDS)
def test_a_width_of_its_own(kind: str):
    retriever = Retriever(kind, dim=D, hidden=7)
    assert retriever.hidden == (7 if kind in ("linear", "mlp") else D)
    contexts = batch_of(rows_of(5, 9))
    assert retriever.encode_contexts(contexts).shape == (2, retriever.hidden)
    assert retriever.encode_prompts(torch.zeros(K, 0, D)).shape == (K, retriever.hidden)
    assert retriever(contexts, PROMPTS).shape == (2, K)


def test_the_transformers_heads_must_divide_the_width():
    with pytest.raises(RecipeError, match=r"retriever\.kind=transformer: .*4 heads.*width 30; use linear"):
        Retriever("transformer", dim=30)
