"""Fixtures of the tests of vLLM: a tiny model on disk, its embeddings alone, two adapters, and replicas that really generate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from engine.serving_clients import saved, varied
from engine.vllm.replica_server import ReplicaServer, running
from small_run import save_base
from sptune.data.dialogue import Dialogue
from sptune.engine.vllm.embeddings_base import load_embeddings
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel


@pytest.fixture(scope="session")
def base_folder(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tiny_base, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def embeddings(base_folder: Path) -> LoadedBase:
    """The tiny base model without its layers."""
    return load_embeddings(str(base_folder))


@pytest.fixture(scope="session")
def folders(tiny_model: Callable[..., SPTModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters that differ in numbers, K, L, template and stops."""
    root = tmp_path_factory.mktemp("adapters")
    two = varied(tiny_model(template="chat", count=5, length=2), seed=2)
    two.stops = ("e ", "zz")
    return {"one": saved(varied(tiny_model(), seed=1), root / "one"), "two": saved(two, root / "two")}


@pytest.fixture
def contexts(dialogues: tuple[Dialogue, ...]) -> list[Dialogue]:
    return [talk.context(n) for talk in dialogues for n in range(len(talk.turns))]


@pytest.fixture
def replica(tiny_base: LoadedBase) -> Iterator[Callable[..., ReplicaServer]]:
    """Starts a replica of the tiny base model, which runs until the test ends."""
    with ExitStack() as stack:
        yield lambda base=tiny_base, **what: stack.enter_context(running(ReplicaServer(base, **what)))


@pytest.fixture
def seconds() -> dict[str, Any]:
    """Time limits of replicas, short enough to be waited for."""
    return {"connect_seconds": 1.0, "read_seconds": 1.0, "look_seconds": 0.1}
