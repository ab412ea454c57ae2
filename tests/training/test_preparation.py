"""What the retriever learns of the training contexts before the first step: their mean, their spread, their clusters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from small_run import talks
from sptune.data.dialogue import Dialogue, Turn
from sptune.data.encoder import TokenSequence
from sptune.errors import DataError, RecipeError
from sptune.model.load import LoadedBase
from sptune.model.retriever import Reading, Retriever
from sptune.model.spt import SPTModel
from sptune.training import preparation
from sptune.training.loader import encode_all
from sptune.training.preparation import prepare_retriever, principal_components
from tiny import tiny_spt

READINGS = {
    "mean": Reading(rank=6),
    "recent": Reading("recent", half_life=4, rank=6),
    "hidden": Reading("hidden", rank=6),
}


def reader(base: LoadedBase, reading: Reading, *, kind: str = "identity", keys: int | None = 3) -> SPTModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        retriever = Retriever(kind, dim=32, reading=reading, keys=keys, activation="none")
    return tiny_spt(base, retriever=retriever, count=keys or 3)


def prepare(model: SPTModel, dialogues: list[Dialogue], **options: Any) -> list[TokenSequence]:
    sequences = encode_all(model, dialogues)
    prepare_retriever(model, sequences, **{"budget": 128, "centre": True, "clusters": False, "seed": 0, **options})
    return sequences


def contexts_of(model: SPTModel, dialogues: list[Dialogue]) -> list[tuple[int, ...]]:
    return [s.input_ids[: span.context_length] for s in encode_all(model, dialogues) for span in s.spans]


def read_alone(model: SPTModel, dialogues: list[Dialogue]) -> Tensor:
    """(n, D) what the retriever reads of every context, one at a time."""
    vectors = []
    with torch.no_grad():
        for ids in contexts_of(model, dialogues):
            embeddings = model.backbone.embed(torch.tensor([ids]))
            contexts = model.contexts(embeddings, torch.tensor([0]), torch.tensor([len(ids)]))
            vectors.append(model.retriever.read(contexts))
    return torch.cat(vectors)


# The mean.


@pytest.mark.parametrize("budget", [16, 64, 4096])
@pytest.mark.parametrize("name", ["mean", "recent", "hidden"])
def test_the_centre_is_the_mean_over_all_turns_whatever_the_batches(tiny_base: LoadedBase, name: str, budget: int):
    model = reader(tiny_base, replace(READINGS[name], rank=None))
    prepare(model, talks(9), budget=budget)
    wanted = read_alone(model, talks(9)).mean(0)
    torch.testing.assert_close(model.retriever.centre, wanted, atol=1e-5, rtol=1e-4)


def test_without_anything_to_prepare_nothing_is_read(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.retriever.state_dict().items()}
    model.retriever.read = None  # type: ignore[assignment]
    prepare(model, talks(3), centre=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.retriever.state_dict().items())


# Whitening.


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("name", READINGS)
def test_whitened_training_contexts_have_mean_zero_and_identity_covariance(
    tiny_base: LoadedBase, name: str, centre: bool
):
    """Centred in any case, for principal components are those of centred vectors."""
    model = reader(tiny_base, READINGS[name])
    prepare(model, talks(40), centre=centre)
    white = model.retriever.encode(read_alone(model, talks(40))).double()
    assert len(white) > 60
    torch.testing.assert_close(white.mean(0), torch.zeros(6).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(6).double(), atol=1e-3, rtol=0)


def test_principal_components_by_hand():
    """Four points on two axes: variances 8 and 2 in the turned plane, 0 in the third direction."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    points = torch.tensor([[4.0, 0, 0], [-4, 0, 0], [0, 2, 0], [0, -2, 0]]) @ turn.T
    first = principal_components(points, rank=1)
    torch.testing.assert_close(first[:, 0].abs(), (turn[:, 0] / 8**0.5).abs())
    both = principal_components(points, rank=2)
    torch.testing.assert_close(both[:, 1].abs(), (turn[:, 1] / 2**0.5).abs())
    with pytest.raises(
        RecipeError, match=r"retriever\.whiten: the 4 training contexts vary in 2 directions.*set it to 2"
    ):
        principal_components(points, rank=3)


def test_contexts_that_vary_too_little_are_refused_with_what_they_allow(tiny_base: LoadedBase):
    """n contexts vary in n - 1 directions at most, whatever their width; equal ones in none."""
    few = talks(3, turns=2)
    with pytest.raises(
        RecipeError, match=r"retriever\.whiten: the 6 .* vary in 5 directions, fewer than 6; set it to 5"
    ):
        prepare(reader(tiny_base, Reading(rank=6)), few)
    prepare(reader(tiny_base, Reading(rank=5)), few)
    same = [replace(few[0], id=str(n), turns=few[0].turns[:1]) for n in range(9)]
    with pytest.raises(RecipeError, match="vary in 0 directions"):
        prepare(reader(tiny_base, Reading(rank=1)), same)


# Clusters.


def topics(count: int, turns: int = 3) -> list[Dialogue]:
    """Dialogues on boats, bread and winter in turn."""
    return [
        Dialogue(f"d{n}", (word * 8,), tuple(Turn(word * (4 + t), "yes") for t in range(turns)))
        for n, word in zip(range(count), ["boats ", "bread ", "winter "] * count, strict=False)
    ]


@pytest.mark.parametrize("kind", ["identity", "linear", "mlp"])
@pytest.mark.parametrize("reading", [Reading(), Reading(rank=2), Reading("recent")])
def test_each_cluster_of_contexts_gets_its_own_key(tiny_base: LoadedBase, reading: Reading, kind: str):
    model = reader(tiny_base, reading, kind=kind)
    prepare(model, topics(12), clusters=True)
    scores = model.scores([dialogue.context(2) for dialogue in topics(6)])
    first, again = scores.argmax(1).view(2, 3).tolist()
    assert first == again
    assert sorted(first) == [0, 1, 2]
    assert model.retriever.keys is not None
    torch.testing.assert_close(model.retriever.keys.norm(dim=1), torch.ones(3))


def test_the_keys_are_the_directions_of_the_clusters(tiny_base: LoadedBase):
    """By cosine: contexts of one direction and any length are one cluster."""
    model = reader(tiny_base, Reading())
    prepare(model, topics(12), clusters=True)
    directions = torch.nn.functional.normalize(model.retriever.encode(read_alone(model, topics(12))), dim=1)
    means = torch.stack([directions.view(4, 3, 3, 32)[:, topic].flatten(0, 1).mean(0) for topic in range(3)])
    assert model.retriever.keys is not None
    found = model.retriever.score(means, model.retriever.keys.detach())
    torch.testing.assert_close(found.max(1).values, torch.ones(3))


def test_clusters_depend_on_the_seed_alone(tiny_base: LoadedBase):
    def keys(seed: int) -> Tensor:
        model = reader(tiny_base, Reading(rank=8), keys=5)
        prepare(model, talks(30), clusters=True, seed=seed)
        assert model.retriever.keys is not None
        return model.retriever.keys.detach()

    numbers = np.random.get_state()[1].copy()
    first = keys(0)
    assert np.array_equal(np.random.get_state()[1], numbers)
    torch.rand(5)
    np.random.rand(5)
    assert torch.equal(keys(0), first)
    assert not torch.equal(keys(1), first)


def test_neighbouring_keys_may_share_a_cluster(tiny_base: LoadedBase):
    """Four keys on two clusters, two each, which are those of two keys."""
    four, two = (reader(tiny_base, Reading(rank=8), keys=count) for count in (4, 2))
    prepare(four, talks(30), clusters=True, alike=2)
    prepare(two, talks(30), clusters=True)
    assert four.retriever.keys is not None
    assert two.retriever.keys is not None
    assert torch.equal(four.retriever.keys, two.retriever.keys[[0, 0, 1, 1]])
    prepare(reader(tiny_base, Reading(), keys=6), talks(2, turns=1), clusters=True, alike=3)


def test_keys_are_left_alone_without_clusters(tiny_base: LoadedBase):
    model = reader(tiny_base, Reading(rank=2))
    assert model.retriever.keys is not None
    before = model.retriever.keys.detach().clone()
    prepare(model, talks(9))
    assert torch.equal(model.retriever.keys, before)


def test_fewer_turns_than_clusters_are_refused(tiny_base: LoadedBase):
    model = reader(tiny_base, Reading(), keys=7)
    with pytest.raises(DataError, match=r"data\.train: 6 turns, fewer than the 7 clusters of retriever\.keys=clusters"):
        prepare(model, talks(2, turns=3), clusters=True)
    prepare(model, talks(7, turns=1), clusters=True)


@pytest.mark.parametrize(("kind", "keys"), [("linear", None), ("transformer", 3)])
def test_clusters_need_keys_and_one_vector_a_context(tiny_base: LoadedBase, kind: str, keys: int | None):
    with pytest.raises(RecipeError, match=r"retriever\.keys=clusters: needs a retriever with keys"):
        prepare(reader(tiny_base, Reading(), kind=kind, keys=keys), talks(9), clusters=True)


# Many contexts.


def test_of_many_contexts_some_are_kept_but_all_are_in_the_mean(tiny_base: LoadedBase, monkeypatch: pytest.MonkeyPatch):
    kept: list[int] = []
    whole = preparation.principal_components

    def count(vectors: Tensor, *, rank: int) -> Tensor:
        kept.append(len(vectors))
        return whole(vectors, rank=rank)

    monkeypatch.setattr(preparation, "principal_components", count)
    every, some = reader(tiny_base, Reading(rank=2)), reader(tiny_base, Reading(rank=2))
    prepare(every, topics(30), clusters=True)
    monkeypatch.setattr(preparation, "MOST_CONTEXTS", 40)
    prepare(some, topics(30), clusters=True)
    assert kept[0] == 90
    assert 20 < kept[1] < 60
    assert torch.equal(some.retriever.centre, every.retriever.centre)
    scores = some.scores([dialogue.context(2) for dialogue in topics(3)])
    assert sorted(scores.argmax(1).tolist()) == [0, 1, 2]
