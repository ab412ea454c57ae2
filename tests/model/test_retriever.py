"""The retriever: a context's scores are its own, whatever shares its batch, pads it or answers it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sptune.errors import RecipeError
from sptune.model.retriever import AGES, Contexts, Reading, Retriever, seeded_retriever
from tiny import Largest

D, K, L = 16, 3, 4
KINDS = ("linear", "mlp", "transformer", "identity")
ACTIVATIONS = ("softplus", "relu", "leaky_relu", "none")
READINGS = {
    "whitened": Reading(rank=5),
    "recent": Reading("recent", half_life=3),
    "recent, whitened": Reading("recent", half_life=40, rank=D),
    "hidden": Reading("hidden"),
    "hidden, whitened": Reading("hidden", rank=5),
}


def make_retriever(kind: str = "linear", activation: str = "softplus", *, centred: bool = True) -> Retriever:
    torch.manual_seed(0)
    retriever = Retriever(kind, dim=D, activation=activation)
    if centred:
        retriever.centre.copy_(torch.randn(D))
    return retriever


def make_reader(reading: Reading, *, kind: str = "linear", keys: int | None = K) -> Retriever:
    """A retriever with keys, a centre and a whitener of random numbers."""
    torch.manual_seed(0)
    retriever = Retriever(kind, dim=D, hidden=7, reading=reading, keys=keys)
    for buffer in retriever.buffers():
        buffer.copy_(torch.randn(buffer.shape))
    return retriever


def rows_of(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, D, generator=generator) for length in lengths]


def batch_of(rows: list[Tensor], *, left: bool = False, extra: int = 0, padding: float = 99.0) -> Contexts:
    """One context a sequence, with padding that would be noticed if it were read. As hidden states stand the embeddings, backwards."""
    width = max(map(len, rows)) + extra
    embeddings = torch.full((len(rows), width, D), padding)
    length = torch.tensor([len(row) for row in rows])
    start = width - length if left else torch.zeros_like(length)
    for i, row in enumerate(rows):
        embeddings[i, start[i] : start[i] + len(row)] = row
    return Contexts(embeddings, torch.arange(len(rows)), length, start if left else None, hidden=embeddings.flip(2))


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


class NoFloat64(TorchDispatchMode):
    """Refuses float64, as Apple GPUs do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        assert not (isinstance(result, Tensor) and result.dtype == torch.float64), func
        return result


@pytest.mark.parametrize("several", [False, True])
def test_a_device_without_float64_reads_contexts_in_float32(several: bool, monkeypatch: pytest.MonkeyPatch):
    rows = rows_of(5, 9, 7)
    contexts = batch_of(rows)
    if several:
        contexts = Contexts(torch.stack([rows[1]]), torch.zeros(2, dtype=torch.long), torch.tensor([4, 9]))
    wanted = contexts.means(), contexts.recent(4.0)
    monkeypatch.setattr(Contexts, "_exact", torch.float32)
    with NoFloat64():
        found = contexts.means(), contexts.recent(4.0)
    torch.testing.assert_close(found, wanted)


def test_a_mean_is_exactly_the_same_in_every_batch():
    rows = rows_of(5, 40, 9)
    alone = torch.cat([batch_of([row]).means() for row in rows])
    assert torch.equal(batch_of(rows, extra=7).means(), alone)


# Recent tokens.


def recent_by_hand(row: Tensor, half_life: float) -> Tensor:
    """The weighted mean, token by token, from the last one backwards."""
    weights = [2 ** (-age / half_life) for age in range(len(row))]
    total = sum(weight * token for weight, token in zip(weights, row.double().flip(0), strict=True))
    return (total / sum(weights)).float()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("half_life", [0.3, 3.0, 8.0, 200.0, 1e6])
def test_recent_tokens_weigh_more(half_life: float, left: bool):
    rows = rows_of(5, 1, 9, AGES, AGES + 1, 3 * AGES + 5)
    recent = batch_of(rows, left=left, extra=3).recent(half_life)
    assert recent.dtype == torch.float32
    wanted = torch.stack([recent_by_hand(row, half_life) for row in rows])
    torch.testing.assert_close(recent, wanted, atol=1e-6, rtol=1e-6)


def test_recent_tokens_of_several_contexts_of_one_sequence():
    """What follows a context does not count, and what stands before it in the sequence is its own."""
    (row,) = rows_of(50)
    contexts = Contexts(row[None], torch.tensor([0, 0, 0]), torch.tensor([2, 37, 50]))
    wanted = torch.stack([recent_by_hand(row[:n], 5) for n in (2, 37, 50)])
    torch.testing.assert_close(contexts.recent(5), wanted, atol=1e-6, rtol=0)


def test_what_is_before_a_context_never_counts():
    """Not even times 0, in a batch whose other context is longer."""
    row = torch.cat([torch.full((40, D), float("nan")), *rows_of(3), torch.full((4, D), float("nan"))])
    (other,) = rows_of(47)
    contexts = Contexts(
        torch.stack([row, other]), torch.tensor([0, 1]), torch.tensor([3, 47]), start=torch.tensor([40, 0])
    )
    wanted = torch.stack([recent_by_hand(row[40:43], 100), recent_by_hand(other, 100)])
    torch.testing.assert_close(contexts.recent(100), wanted, atol=1e-6, rtol=0)


def test_a_half_life_of_a_million_is_the_plain_mean():
    contexts = batch_of(rows_of(5, 1, 300))
    torch.testing.assert_close(contexts.recent(1e6), contexts.means(), atol=1e-4, rtol=0)
    distances = [float((contexts.recent(h) - contexts.means()).norm()) for h in (2, 20, 200, 2000, 1e6)]
    assert distances == sorted(distances, reverse=True)


def test_long_contexts_and_half_lives_are_right_without_a_copy_of_each():
    """40 contexts of up to 2,000 tokens of one sequence: 1,280,000 numbers, were each copied."""
    (row,) = rows_of(2000)
    contexts = Contexts(row[None], torch.zeros(40, dtype=torch.long), torch.arange(50, 2001, 50))
    with Largest() as largest:
        recent = contexts.recent(5e4)
    assert largest.numel < 40_000
    for i in (0, 17, 39):
        torch.testing.assert_close(recent[i], recent_by_hand(row[: 50 * (i + 1)], 5e4), atol=1e-6, rtol=1e-5)


def test_a_recent_mean_is_the_same_in_every_batch():
    rows = rows_of(5, 1, 70, 9)
    alone = torch.cat([batch_of([row]).recent(6) for row in rows])
    torch.testing.assert_close(batch_of(rows, extra=7).recent(6), alone, atol=1e-7, rtol=0)
    torch.testing.assert_close(batch_of(rows, extra=7, left=True).recent(6), alone, atol=1e-7, rtol=0)


# Hidden states.


@pytest.mark.parametrize("left", [False, True])
def test_the_hidden_state_is_that_of_the_contexts_last_token(left: bool):
    rows = rows_of(5, 1, 9)
    wanted = torch.stack([row[-1].flip(0) for row in rows])
    assert torch.equal(batch_of(rows, left=left, extra=3).last_hidden(), wanted)
    (row,) = rows_of(12)
    contexts = Contexts(row[None], torch.tensor([0, 0]), torch.tensor([2, 7]), hidden=row[None])
    assert torch.equal(contexts.last_hidden(), row[[1, 6]])


def test_hidden_states_have_to_be_given():
    with pytest.raises(ValueError, match="hidden: missing"):
        Contexts(torch.zeros(1, 2, D), torch.tensor([0]), torch.tensor([2])).last_hidden()


# Scores.


@pytest.mark.parametrize("name", READINGS)
def test_scores_do_not_depend_on_batch_or_padding_whatever_is_read(name: str):
    retriever, rows = make_reader(READINGS[name]), rows_of(5, 1, 9, 70)
    alone = torch.cat([retriever(batch_of([row]), PROMPTS) for row in rows])
    assert alone.std(0).min() > 1e-3
    for contexts in (batch_of(rows), batch_of(rows, extra=20), batch_of(rows, left=True)):
        torch.testing.assert_close(retriever(contexts, PROMPTS), alone, atol=1e-6, rtol=0)
    order = torch.tensor([3, 1, 0, 2])
    mixed = retriever(batch_of([rows[i] for i in order]), PROMPTS)
    torch.testing.assert_close(mixed, alone[order], atol=1e-6, rtol=0)


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
    wanted = {
        "none": [0.6, -0.8],
        "softplus": [0.6, math.log1p(math.exp(-8)) / 10],
        "relu": [0.6, 0.0],
        "leaky_relu": [0.6, -0.008],
    }
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


# Whitening and keys.


def test_a_whitened_score_by_hand():
    """One component, x/2 + y/3. The context (3, 4) minus the centre (1, 1) has 1 + 1 = 2; the prompts (1, 3) and (0, -3), which are not
    centred, have 1.5 and -1. In one dimension cosines are 1 and -1."""
    retriever = Retriever("identity", dim=2, activation="none", reading=Reading(rank=1))
    retriever.centre.copy_(torch.tensor([1.0, 1.0]))
    retriever.whitener.copy_(torch.tensor([[0.5], [1 / 3]]))
    contexts = Contexts(torch.tensor([[[3.0, 4.0]]]), torch.tensor([0]), torch.tensor([1]))
    prompts = torch.tensor([[[1.0, 3.0]], [[0.0, -3.0]]])
    assert retriever.encode_contexts(contexts).tolist() == [[pytest.approx(2)]]
    assert retriever.encode_prompts(prompts).flatten().tolist() == pytest.approx([1.5, -1])
    assert retriever(contexts, prompts)[0].tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize("kind", ["linear", "mlp", "identity"])
def test_the_map_is_as_wide_as_what_it_reads(kind: str):
    """`rank` numbers come in; `hidden`, or as many, go out."""
    for hidden in (None, 9):
        retriever = Retriever(kind, dim=D, hidden=hidden, reading=Reading(rank=5), keys=K)
        wide = hidden if hidden and kind != "identity" else 5
        assert retriever.hidden == wide
        assert retriever.keys is not None
        assert retriever.keys.shape == (K, wide)
        assert retriever.encode(torch.zeros(2, D)).shape == (2, wide)
        assert set(retriever.state_dict()) >= {"centre", "whitener", "keys"}
        assert "whitener" not in dict(retriever.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_keys_stand_in_the_place_of_prompts(kind: str):
    """Scores are cosines with the keys, whatever the prompts are; the prompts get no gradient from them, the keys do."""
    retriever = make_reader(Reading(), kind=kind)
    retriever.activation = "none"
    contexts, prompts = batch_of(rows_of(5, 9)), PROMPTS.clone().requires_grad_()
    scores = retriever(contexts, prompts)
    encoded = torch.nn.functional.normalize(retriever.encode_contexts(contexts), dim=1)
    assert retriever.keys is not None
    torch.testing.assert_close(scores, encoded @ torch.nn.functional.normalize(retriever.keys, dim=1).T)
    assert torch.equal(retriever(contexts, prompts + 1), scores)
    assert torch.equal(retriever(contexts, torch.zeros(K, 0, D)), scores)
    scores[:, 1].sum().backward()
    assert prompts.grad is None
    assert retriever.keys.grad is not None
    assert retriever.keys.grad.abs().sum(1).bool().tolist() == [False, True, False]


@pytest.mark.parametrize("name", READINGS)
def test_gradients_reach_map_and_keys_whatever_is_read(name: str):
    retriever = make_reader(READINGS[name])
    retriever(batch_of(rows_of(5, 9)), PROMPTS).square().sum().backward()
    for part, parameter in retriever.named_parameters():
        assert torch.isfinite(parameter.grad).all(), part
        assert parameter.grad.abs().sum() > 0, part


def test_a_seeded_retriever_depends_on_its_seed_alone():
    def make(seed: int) -> dict[str, Tensor]:
        torch.rand(3)
        return seeded_retriever(lambda: Retriever("linear", dim=D, keys=K), seed=seed).state_dict()

    state = torch.get_rng_state()
    first = seeded_retriever(lambda: Retriever("linear", dim=D, keys=K), seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, make(1)[name]) for name, tensor in first.items())
    assert not torch.equal(first["keys"], make(2)["keys"])


@pytest.mark.parametrize(
    ("kind", "reading", "keys", "message"),
    [
        ("linear", Reading(rank=D + 1), None, rf"retriever\.whiten: {D + 1} exceeds .* {D}; set it to {D} or less"),
        (
            "linear",
            Reading("hidden"),
            None,
            r"retriever\.keys: .*hidden states, .*set retriever\.keys=clusters or random",
        ),
        ("transformer", Reading("recent"), None, r"retriever\.kind=transformer: reads all tokens"),
        ("transformer", Reading(rank=2), None, r"retriever\.kind=transformer: reads all tokens"),
        ("linear", Reading("recent", half_life=0), None, r"retriever\.half_life: 0 is not above 0"),
        ("linear", Reading("recent", half_life=math.inf), None, r"retriever\.half_life: inf .*input=mean"),
        ("linear", Reading("recent", half_life=math.nan), None, r"retriever\.half_life: nan"),
    ],
)
def test_readings_that_cannot_be_had(kind: str, reading: Reading, keys: int | None, message: str):
    with pytest.raises(RecipeError, match=message):
        Retriever(kind, dim=D, reading=reading, keys=keys)


def test_the_transformer_may_have_keys_and_an_unused_half_life():
    assert Retriever("transformer", dim=D, reading=Reading(half_life=3), keys=K).keys is not None


def test_the_transformers_heads_must_divide_the_width():
    with pytest.raises(RecipeError, match=r"retriever\.kind=transformer: .*4 heads.*width 30; use linear"):
        Retriever("transformer", dim=30)
