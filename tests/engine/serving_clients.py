"""What the tests of the serving engine share: adapters on disk, an engine that is started and stopped, and clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from sptune.engine.batching import BatchingEngine
from sptune.engine.serving import Piece, ServingEngine, ServingRequest, Stream
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.selection import Selection
from sptune.model.spt import SPTModel

Result = TypeVar("Result")
Engine = TypeVar("Engine", bound=ServingEngine)
GREEDY = Decoding(max_new_tokens=16)


@dataclass(frozen=True)
class Answer:
    """All that came of a request."""

    text: str
    tokens: int
    finish: str | None
    selection: Selection | None
    pieces: tuple[Piece, ...]


def varied(model: SPTModel, seed: int) -> SPTModel:
    """`model` with prompts and keys of its own, so that adapters answer differently."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (*model.prompts.parameters(), *model.retriever.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


def saved(model: SPTModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


async def collect(stream: Stream) -> Answer:
    await stream.started()
    pieces = [piece async for piece in stream]
    return Answer(
        "".join(piece.text for piece in pieces), pieces[-1].tokens, pieces[-1].finish, stream.selection, tuple(pieces)
    )


async def answers(engine: ServingEngine, requests: Sequence[ServingRequest]) -> list[Answer]:
    """The answers to requests that all arrive at once."""
    return list(await asyncio.gather(*(collect(engine.submit(request)) for request in requests)))


def serve(
    base: LoadedBase,
    visit: Callable[[BatchingEngine], Awaitable[Result]],
    *,
    adapters: dict[str, Path] | None = None,
    **settings: Any,
) -> Result:
    """What `visit` returns of a `BatchingEngine` that serves `adapters`."""
    return serve_with(BatchingEngine(base, **settings), visit, adapters=adapters)


def serve_with(
    engine: Engine,
    visit: Callable[[Engine], Awaitable[Result]],
    *,
    adapters: dict[str, Path] | None = None,
    seconds: float = 60,
) -> Result:
    """What `visit` returns, within so many seconds, of `engine`, which is started, given `adapters`, and stopped."""

    async def run() -> Result:
        await engine.start()
        try:
            for name, path in (adapters or {}).items():
                await engine.adapters.add(name, path)
            return await asyncio.wait_for(visit(engine), timeout=seconds)
        finally:
            await engine.stop()

    return asyncio.run(run())


def assert_same_selection(one: Selection | None, other: Selection | None) -> None:
    """The same prompt; scores are equal to 1e-6 whatever else was scored with them, not to the last bit."""
    assert (one is None) == (other is None)
    if one and other:
        assert one.prompt == other.prompt
        assert one.scores == pytest.approx(other.scores, abs=1e-6)
