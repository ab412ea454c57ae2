"""The gateway in front of real `vllm serve` processes: what only they can show. Equal tokens are in test_vllm_equality.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import pytest

from engine.serving_clients import Answer, answers, assert_same_selection, collect, saved, serve, serve_with, varied
from engine.vllm.real_vllm import Replica, vllm_serve
from small_run import save_base
from sptune.data.dialogue import Dialogue
from sptune.engine.serving import ServingEngine, ServingRequest, UnavailableError
from sptune.engine.vllm.embeddings_base import load_embeddings
from sptune.engine.vllm.engine import VllmEngine
from sptune.engine.vllm.replicas import Replicas
from sptune.errors import ModelError
from sptune.model.backbone import Backbone
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from tiny import tiny_llama, tiny_spt

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

Result = TypeVar("Result")
GREEDY = Decoding(max_new_tokens=24)
LONG = Decoding(max_new_tokens=400)


def ask(
    base: LoadedBase, replica: Replica, visit: Callable[[VllmEngine], Awaitable[Result]], adapters: dict[str, Path]
) -> Result:
    """What a visit to a gateway returns."""
    source = Replicas([replica.url], base, slots=8)
    return serve_with(VllmEngine(base, source), visit, adapters=adapters, seconds=600)


@dataclass(frozen=True)
class Tiny:
    """A tiny base model on disk whose heads are wide enough for vLLM, and two adapters for it."""

    whole: LoadedBase
    folder: Path
    embeddings: LoadedBase
    adapters: dict[str, Path]


@pytest.fixture(scope="module")
def tiny(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_llama(len(tiny_tokenizer), hidden_size=128, num_attention_heads=2, num_key_value_heads=1)
    whole = LoadedBase(Backbone(model, base="tiny"), tiny_tokenizer)
    folder = save_base(whole, root / "base")
    adapters = {
        "one": saved(varied(tiny_spt(whole), seed=1), root / "one"),
        "two": saved(varied(tiny_spt(whole, "chat", count=5, length=2), seed=2), root / "two"),
    }
    return Tiny(whole, folder, load_embeddings(str(folder)), adapters)


def requests_of(contexts: list[Dialogue], decoding: Decoding = GREEDY) -> list[ServingRequest]:
    """Every context on two adapters and on the bare model."""
    return [
        ServingRequest(name, context, decoding, logprobs=(None, 2)[n % 2])
        for n, (context, name) in enumerate((context, name) for context in contexts for name in ("one", "two", None))
    ]


def assert_same(found: list[Answer], wanted: list[Answer]) -> None:
    """Tokens are equal; log-probabilities differ by rounding."""
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert (one.text, one.tokens, one.finish) == (other.text, other.tokens, other.finish), number
        assert_same_selection(one.selection, other.selection)
        ours, theirs = ([t for piece in a.pieces for t in piece.logprobs] for a in (one, other))
        assert [t.token for t in ours] == [t.token for t in theirs]
        assert [t.logprob for t in ours] == pytest.approx([t.logprob for t in theirs], abs=1e-3)
        assert [len(t.top) for t in ours] == [len(t.top) for t in theirs]


def test_a_gateway_and_its_only_replica(
    tiny: Tiny, dialogues: tuple[Dialogue, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Greedy replies of `local`; seeds; a closed reply is aborted; the replica dies; it comes back without `--enable-prompt-embeds`."""
    contexts = [talk.context(n) for talk in dialogues for n in range(len(talk.turns))]
    requests = requests_of(contexts)
    log = tmp_path / "vllm.log"

    async def visit_local(engine: ServingEngine) -> list[Answer]:
        return await answers(engine, requests)

    wanted = serve(tiny.whole, visit_local, adapters=tiny.adapters)
    with vllm_serve(str(tiny.folder), log, window=1024) as vllm:

        async def visit(engine: VllmEngine) -> list[Answer]:
            found = await answers(engine, requests)
            await check_seeds(engine, requests[0])
            await check_abort(engine, requests[0], vllm)
            await check_death(engine, requests[0], vllm)
            return found

        found = ask(tiny.embeddings, vllm, visit, tiny.adapters)
        assert_same(found, wanted)
        assert any(record.message == "replica.down" for record in caplog.records)
    port = int(vllm.url.rpartition(":")[2])
    with (
        vllm_serve(str(tiny.folder), log, port=port, embeds=False, window=1024),
        pytest.raises(ModelError, match="without --enable-prompt-embeds"),
    ):
        ask(tiny.embeddings, vllm, visit, tiny.adapters)


async def check_seeds(engine: VllmEngine, request: ServingRequest) -> None:
    drawn = replace(request, decoding=Decoding(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=5))
    same, again, other = await answers(engine, [drawn, drawn, replace(drawn, decoding=replace(drawn.decoding, seed=6))])
    assert same.text == again.text != other.text


def figure(vllm: Replica, name: str) -> float:
    """One of vLLM's own metrics."""
    with urlopen(f"{vllm.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    [value] = [float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{")]
    return value


async def check_abort(engine: VllmEngine, request: ServingRequest, vllm: Replica) -> None:
    """vLLM's own figures show one running request, and soon none."""
    async with aclosing(engine.submit(replace(request, decoding=LONG))) as stream:
        await anext(stream)
        assert engine.load().running == 1
    end = time.monotonic() + 10
    while await asyncio.to_thread(figure, vllm, "vllm:num_requests_running"):
        assert time.monotonic() < end, "vLLM goes on with a request that was closed"
        await asyncio.sleep(0.1)


async def check_death(engine: VllmEngine, request: ServingRequest, vllm: Replica) -> None:
    stream = engine.submit(replace(request, decoding=LONG))
    await anext(stream)
    vllm.kill()
    with pytest.raises(UnavailableError, match="the model failed; try again"):
        await collect(stream)
    with pytest.raises(UnavailableError, match="cannot be reached now"):
        engine.submit(request)
    assert engine.load().slots == 0


def test_a_replica_of_another_model(tiny: Tiny, tmp_path: Path) -> None:
    """Of the same shape and vocabulary: only its numbers tell it apart."""
    model = tiny_llama(len(tiny.whole.tokenizer), hidden_size=128, num_attention_heads=2, num_key_value_heads=1)
    for parameter in model.parameters():
        parameter.data = parameter.data.flip(0)
    other = save_base(LoadedBase(Backbone(model, base="other"), tiny.whole.tokenizer), tmp_path / "other")

    async def visit(engine: VllmEngine) -> None:
        raise AssertionError("it must not start")

    with (
        vllm_serve(str(other), tmp_path / "vllm.log", window=512) as vllm,
        pytest.raises(ModelError, match=f"serves {other}, which does not say the same"),
    ):
        ask(tiny.embeddings, vllm, visit, {})
