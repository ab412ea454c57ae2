from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from serving_clients import saved, varied

from sptune.adapter import CONFIG_NAME, WEIGHTS_NAME
from sptune.data.dialogue import Dialogue
from sptune.engine.adapters import AdapterStore
from sptune.engine.loaded_adapter import AdapterLoader, LoadedAdapter
from sptune.errors import AdapterError, UsageError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.retriever import Reading, Retriever
from sptune.model.spt import SPTModel
from tiny import JINJA_TEMPLATE, tiny_llama

Result = TypeVar("Result")
Make = Callable[..., SPTModel]


@pytest.fixture(scope="module")
def loader(tiny_base: LoadedBase) -> AdapterLoader:
    return AdapterLoader(tiny_base)


@pytest.fixture
def folder(tiny_model: Make, tmp_path: Path) -> Path:
    return saved(varied(tiny_model(count=4), seed=1), tmp_path / "adapter")


class SlowLoad:
    """Loads when it is let to, and counts."""

    def __init__(self, loader: AdapterLoader) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.count = 0
        self._loader = loader

    def __call__(self, path: str | Path) -> LoadedAdapter:
        self.count += 1
        assert self.gate.wait(10)
        return self._loader.load(path)


@pytest.fixture
def load(loader: AdapterLoader) -> SlowLoad:
    return SlowLoad(loader)


def visit(run: Callable[[], Awaitable[Result]]) -> Result:
    async def limited() -> Result:
        return await asyncio.wait_for(run(), timeout=20)

    return asyncio.run(limited())


@pytest.mark.parametrize(
    "retriever",
    [
        "linear",
        "transformer",
        "identity",
        Retriever("mlp", dim=32, hidden=12, reading=Reading("recent", rank=8), keys=3),
        Retriever("linear", dim=32, reading=Reading("hidden"), keys=3),
    ],
)
@pytest.mark.parametrize(("template", "source"), [("paper", None), ("chat", None), ("jinja", JINJA_TEMPLATE)])
def test_a_loaded_adapter_scores_as_the_model_it_was(
    retriever: Retriever | str,
    template: str,
    source: str | None,
    loader: AdapterLoader,
    tiny_model: Make,
    dialogues: tuple[Dialogue, ...],
    tmp_path: Path,
) -> None:
    model = varied(tiny_model(template, retriever=retriever, source=source), seed=4)
    model.stops = ("x",)
    adapter = loader.load(saved(model, tmp_path / "adapter"))
    contexts = [talk.context(len(talk.turns) - 1) for talk in dialogues]
    ids = [model.encoder.encode_context(context).input_ids for context in contexts]
    assert [adapter.model.encoder.encode_context(context).input_ids for context in contexts] == ids
    given = torch.cat([adapter.scores(one) for one in ids])
    torch.testing.assert_close(given, model.scores_of_ids(ids))
    torch.testing.assert_close(adapter.model.prompts.embeddings, model.prompts.embeddings.detach())
    assert adapter.model.stops == ("x",)
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())


def test_all_adapters_share_the_base_and_nothing_of_their_own(
    loader: AdapterLoader, folder: Path, tiny_model: Make, tmp_path: Path
) -> None:
    first, second = loader.load(folder), loader.load(folder)
    other = loader.load(saved(tiny_model("chat"), tmp_path / "other"))
    assert first.model.backbone is other.model.backbone is loader.base.backbone
    assert first.model.prompts.embeddings.data_ptr() != second.model.prompts.embeddings.data_ptr()


def spoil(folder: Path, how: str) -> None:
    config = json.loads((folder / CONFIG_NAME).read_text())
    tensors = load_file(folder / WEIGHTS_NAME)
    if how == "template":
        config["template"] |= {"kind": "jinja", "source": "{{ persona.__class__.__mro__ }}"}
    elif how == "endless":
        config["template"] |= {"kind": "jinja", "source": "{% for a in range(999999999) %}{% endfor %}"}
    elif how == "base":
        config["base"]["embedding_sha256"] = "0" * 64
    elif how == "too long":
        config["prompt_length"] = 2000
        tensors["prompts"] = torch.zeros(4, 2000, 32)
    elif how == "huge":
        tensors["prompts"][:] = 3e38
    elif how == "shape":
        tensors["retriever.map.weight"] = torch.zeros(2, 32)
    elif how == "json":
        config = []
    (folder / CONFIG_NAME).write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS_NAME)
    if how == "cut":
        (folder / WEIGHTS_NAME).write_bytes((folder / WEIGHTS_NAME).read_bytes()[:-100])


@pytest.mark.parametrize("how", ["template", "endless", "base", "too long", "huge", "shape", "json", "cut"])
def test_a_bad_adapter_is_refused(how: str, loader: AdapterLoader, folder: Path) -> None:
    spoil(folder, how)
    with pytest.raises(AdapterError, match=folder.name):
        loader.load(folder)


def test_an_adapter_too_large_is_refused(loader: AdapterLoader, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sptune.engine.loaded_adapter.MAX_WEIGHTS_BYTES", 1000)
    with pytest.raises(AdapterError, match="larger than 1000 bytes"):
        loader.load(folder)


def test_another_base_is_refused(folder: Path, tiny_base: LoadedBase) -> None:
    other = Backbone(tiny_llama(len(tiny_base.tokenizer), hidden_size=16), base="narrow")
    with pytest.raises(AdapterError, match="'tiny', whose embedding table differs from that of 'narrow'"):
        AdapterLoader(LoadedBase(other, tiny_base.tokenizer)).load(folder)


def test_names_come_and_go(load: SlowLoad, folder: Path) -> None:
    async def run() -> None:
        store = AdapterStore(load)
        info = await store.add("b", folder)
        assert (info.name, info.base, info.num_prompts, info.prompt_length) == ("b", "tiny", 4, 4)
        assert (info.template, info.retriever, info.reading, info.max_length) == ("paper", "linear", "mean", 512)
        await store.add("a", str(folder))
        assert store.names() == ["b", "a"]
        assert store.describe("b") == info
        with pytest.raises(UsageError, match="'b' is taken"):
            await store.add("b", folder)
        with pytest.raises(UsageError, match="empty"):
            await store.add(" ", folder)
        await store.remove("b")
        gone = "there is no adapter 'b'; there are: a"
        with pytest.raises(AdapterError, match=gone):
            store.describe("b")
        for call in (store.remove, store.get):
            with pytest.raises(AdapterError, match=gone):
                await call("b")
        await store.add("b", folder)
        assert store.names() == ["a", "b"]

    visit(run)


def test_all_who_need_an_adapter_wait_for_one_load(load: SlowLoad, folder: Path) -> None:
    async def run() -> None:
        store = AdapterStore(load)
        load.gate.clear()
        adding = asyncio.create_task(store.add("a", folder))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(store.get("a")) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert store.names() == []
        with pytest.raises(AdapterError, match="being loaded"):
            store.describe("a")
        waiting[0].cancel()  # one gives up; the others still get it
        load.gate.set()
        await adding
        assert await waiting[1] is await waiting[2] is await store.get("a")
        assert load.count == 1

    visit(run)


def test_a_bad_adapter_leaves_its_name_free(load: SlowLoad, folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    spoil(bad, "cut")

    async def run() -> None:
        store = AdapterStore(load)
        await store.add("good", folder)
        load.gate.clear()
        adding = asyncio.create_task(store.add("a", bad))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(store.get("a"))
        await asyncio.sleep(0)
        load.gate.set()
        for task in (adding, waiting):
            with pytest.raises(AdapterError, match="cut short"):
                await task
        assert store.names() == ["good"]
        await store.add("a", folder)
        assert store.names() == ["good", "a"]

    visit(run)


def test_removed_while_it_is_loaded(load: SlowLoad, folder: Path) -> None:
    async def run() -> None:
        store = AdapterStore(load)
        load.gate.clear()
        adding = asyncio.create_task(store.add("a", folder))
        await asyncio.sleep(0.01)
        await store.remove("a")
        load.gate.set()
        with pytest.raises(AdapterError, match="removed while it was being loaded"):
            await adding
        assert store.names() == []

    visit(run)


def test_the_least_recently_used_leave_memory_and_come_back(load: SlowLoad, folder: Path) -> None:
    async def run() -> None:
        store = AdapterStore(load, limit=2)
        for name in "abc":
            await store.add(name, folder)
        assert [store.describe(name).loaded for name in "abc"] == [False, True, True]
        held = await store.get("b")
        await store.get("a")  # comes back, and c goes
        assert [store.describe(name).loaded for name in "abc"] == [True, True, False]
        assert await store.get("b") is held
        assert load.count == 4
        shutil.rmtree(folder)
        with pytest.raises(AdapterError, match="no such adapter folder"):
            await store.get("c")
        assert store.names() == ["a", "b", "c"]
        assert await store.get("b") is held

    visit(run)


def test_a_removed_adapter_takes_nobodys_place(load: SlowLoad, folder: Path) -> None:
    async def run() -> None:
        store = AdapterStore(load, limit=2)
        for name in "ab":
            await store.add(name, folder)
        await store.remove("a")
        await store.add("c", folder)
        assert [store.describe(name).loaded for name in "bc"] == [True, True]

    visit(run)
    with pytest.raises(UsageError, match="0 is below 1"):
        AdapterStore(load, limit=0)
