"""Packed batches of training dialogues."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from small_run import talks
from sptune.data.dialogue import Dialogue, Turn
from sptune.errors import DataError
from sptune.model.spt import SPTModel
from sptune.training.loader import PackedLoader, encode_all


def order(loader: PackedLoader) -> list[list[str]]:
    return [[talk.id for talk in inputs["batch"].dialogues] for inputs in loader]


def test_the_order_depends_on_seed_and_epoch_alone(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    sequences = encode_all(model, talks(20))

    def make(seed: int, epoch: int) -> list[list[str]]:
        loader = PackedLoader(sequences, model=model, budget=128, seed=seed)
        loader.set_epoch(epoch)
        return order(loader)

    torch.manual_seed(0)
    first = make(0, 0)
    torch.manual_seed(1)
    assert make(0, 0) == first
    assert make(0, 1) != first
    assert make(1, 0) != first
    assert len(make(0, 1)) == len(first)


def test_every_dialogue_comes_once_an_epoch_within_the_budget(tiny_model: Callable[..., SPTModel]):
    model = tiny_model(length=4)
    sequences = encode_all(model, talks(20))
    loader = PackedLoader(sequences, model=model, budget=150)
    batches = [inputs["batch"] for inputs in loader]
    assert len(batches) == len(loader)
    assert sum(len(batch.lengths) for batch in batches) == 20
    for batch in batches:
        rows, width = batch.input_ids.shape
        assert rows == 1 or rows * (width + 4) <= 150, "virtual tokens count"


def test_without_a_response_there_is_nothing_to_learn(tiny_model: Callable[..., SPTModel]):
    with pytest.raises(DataError, match=r"data\.train: the dialogues hold no response"):
        encode_all(tiny_model(), [Dialogue("a", (), (Turn("hi"),))])
    with pytest.raises(DataError, match="hold no response"):
        encode_all(tiny_model(), [])
