"""Fixtures of the server's tests: two adapters on a tiny base model, engines and servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, live_server

from sptune.engine.batching import BatchingEngine
from sptune.model.load import LoadedBase
from sptune.server.records.store import Records
from sptune.server.settings import ServerSettings
from tiny import tiny_spt

PERSONAS = "sailor: [I sail., I have two dogs.]\nbaker: I bake rye bread. I get up early.\n"


@pytest.fixture(scope="session")
def adapters(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two adapter folders: `sailor` with K = 3 prompts, `baker` with K = 5."""
    root = tmp_path_factory.mktemp("adapters")
    for name, count in (("sailor", 3), ("baker", 5)):
        tiny_spt(tiny_base, count=count).save_pretrained(root / name)
    return {name: str(root / name) for name in ("sailor", "baker")}


@pytest.fixture(scope="session")
def make_engine(tiny_base: LoadedBase) -> Callable[..., BatchingEngine]:
    """Makes an engine on the tiny base model; not started."""

    def make(base: LoadedBase = tiny_base, **options: Any) -> BatchingEngine:
        return BatchingEngine(base, **{"slots": 4, "queue_limit": 8, **options})

    return make


@pytest.fixture(scope="session")
def make_settings(adapters: dict[str, str]) -> Callable[..., ServerSettings]:
    """Makes settings for a free port and the two adapters."""

    def make(**options: Any) -> ServerSettings:
        return ServerSettings.model_validate({"adapters": adapters, "base": "tiny", "port": 0, **options})

    return make


@pytest.fixture(scope="module")
def live(
    make_engine: Callable[..., BatchingEngine],
    make_settings: Callable[..., ServerSettings],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveServer]:
    """A server with personas and default limits, for tests that change nothing about it."""
    personas: Path = tmp_path_factory.mktemp("personas") / "personas.yaml"
    personas.write_text(PERSONAS, encoding="utf-8")
    with live_server(make_engine(), make_settings(personas=personas)) as server:
        yield server


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    """An empty file of records."""
    records = Records.open(tmp_path_factory.mktemp("records") / "chats.db")
    yield records
    records.close()
