"""Fixtures of the compared methods: tiny base models, invented dialogues, methods before and after they are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_method import Fitted, Maker, small_recipe
from transformers import GPT2Config, GPT2LMHeadModel

from small_run import talks
from sptune import build
from sptune.baselines.make import make_method
from sptune.baselines.method import Method, TrainingData
from sptune.config import Recipe
from sptune.config.compare import MethodSettings
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase


@pytest.fixture(scope="session")
def data() -> TrainingData:
    """Eight dialogues to train on, two to validate on."""
    return TrainingData(talks(8), talks(2, seed=1))


@pytest.fixture(scope="session")
def gpt2_base(tiny_base: LoadedBase) -> LoadedBase:
    """A tiny random GPT-2: learned positions, tied embeddings, linear layers of its own kind."""
    torch.manual_seed(2)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    size = len(tiny_base.tokenizer)
    config = GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=640, initializer_range=0.2, **ends)
    return LoadedBase(Backbone(GPT2LMHeadModel(config), base="tiny-gpt2"), tiny_base.tokenizer)


@pytest.fixture(scope="session")
def make(tiny_base: LoadedBase) -> Maker:
    """`make(kind, base=, recipe=, **settings)`: a method on a tiny base."""

    def method(kind: str, *, base: LoadedBase = tiny_base, recipe: Recipe | None = None, **settings: Any) -> Method:
        wanted = MethodSettings(kind=kind, **settings)
        return make_method(wanted, recipe=recipe or small_recipe(), base=base, build=build)

    return method


@pytest.fixture(scope="session")
def fitted(make: Maker, data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """`fitted(kind, seed=, learning_rate=, ...)`: a method after `fit`, and its folder; one for all tests that ask for the same."""
    done: dict[str, tuple[Method, Path]] = {}

    def fit(kind: str, *, seed: int = 0, learning_rate: float | None = None, **arguments: Any) -> tuple[Method, Path]:
        key = repr((kind, seed, learning_rate, sorted(arguments.items())))
        if key not in done:
            method, folder = make(kind, **arguments), tmp_path_factory.mktemp(kind)
            method.fit(data, folder=folder, seed=seed, learning_rate=learning_rate)
            done[key] = method, folder
        return done[key]

    return fit
