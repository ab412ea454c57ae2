"""What holds for every compared method."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from small_method import Fitted, Maker, small_recipe
from transformers import TrainerCallback

from small_run import talks
from sptune import build
from sptune.baselines.make import METHODS
from sptune.baselines.method import METHOD_NAME, TrainingData
from sptune.config.compare import Kind
from sptune.data.dialogue import Dialogue
from sptune.errors import AdapterError, StorageError, UsageError
from sptune.evaluation.run import Settings, evaluate
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from sptune.training.metrics_log import read_metrics
from sptune.training.validation import validate
from tiny import tiny_llama

UNTRAINED: list[dict[str, Any]] = [
    {"kind": "zero_shot"},
    {"kind": "few_shot", "examples": 2},
    {"kind": "rag", "examples": 2},
    {"kind": "rag", "examples": 2, "rag": "dense"},
]
TUNED: list[dict[str, Any]] = [
    {"kind": "lora", "learning_rate": 1e-2},
    {"kind": "lora", "dropout": 0.3, "targets": ("q_proj", "v_proj"), "learning_rate": 5e-3},
    {"kind": "full", "learning_rate": 1e-3},
    {"kind": "prefix", "length": 4, "learning_rate": 5e-2},
    {"kind": "p_tuning", "length": 4, "learning_rate": 1e-2},
    {"kind": "p_tuning", "length": 4, "encoder": "lstm", "encoder_hidden": 16, "learning_rate": 3e-2},
    {"kind": "spt_lora", "joint": True, "lora_lr": 1e-2, "learning_rate": 5e-2},
]
SPT: list[dict[str, Any]] = [
    {"kind": "spt", "learning_rate": 5e-2},
    {"kind": "spt", "rag": "bm25", "examples": 1, "learning_rate": 5e-2},
    {"kind": "spt_lora", "lora_lr": 1e-2, "learning_rate": 5e-2},
]


def name(arguments: dict[str, Any]) -> str:
    return "-".join(str(value) for value in arguments.values())


every = pytest.mark.parametrize("arguments", [*UNTRAINED, *TUNED, *SPT], ids=name)
trained = pytest.mark.parametrize("arguments", [*TUNED, *SPT], ids=name)


def with_candidates(dialogues: list[Dialogue]) -> list[Dialogue]:
    others = ("i sing .", "you mend boats .", "bread and rope .")
    return [
        replace(talk, turns=tuple(replace(turn, candidates=(turn.response or "", *others)) for turn in talk.turns))
        for talk in dialogues
    ]


@every
def test_a_loaded_method_can_be_evaluated(fitted: Fitted, arguments: dict[str, Any], tmp_path: Path):
    method, folder = fitted(**arguments)
    model = method.load(folder)
    assert isinstance(model, SPTModel)
    dialogues = with_candidates(talks(2, seed=5))
    settings = Settings(decoding=Decoding(max_new_tokens=4))
    result = evaluate(model, dialogues, settings=settings, output=tmp_path).result
    assert result.likelihood is not None
    assert result.ranking is not None
    assert result.metrics is not None


@every
def test_the_base_stays_as_it_was(fitted: Fitted, tiny_base: LoadedBase, arguments: dict[str, Any]):
    method, folder = fitted(**arguments)
    method.load(folder)
    fresh = tiny_llama(len(tiny_base.tokenizer)).state_dict()
    now = tiny_base.backbone.model.state_dict()
    assert fresh.keys() == now.keys()
    assert all(torch.equal(fresh[key], now[key]) for key in fresh)
    assert not any(p.requires_grad for p in tiny_base.backbone.parameters())


@trained
def test_the_best_validation_is_what_is_loaded(fitted: Fitted, data: TrainingData, arguments: dict[str, Any]):
    method, folder = fitted(**arguments)
    records = [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "validation"]
    best = min(record["perplexity"] for record in records)
    assert validate(method.load(folder), data.validation)["perplexity"] == pytest.approx(best, rel=1e-5)


@trained
def test_training_fits_the_training_dialogues(
    fitted: Fitted, tiny_base: LoadedBase, data: TrainingData, arguments: dict[str, Any]
):
    untrained = build.make_bare_model(small_recipe(), base=tiny_base)
    if arguments.get("rag"):
        method, folder = fitted("rag", examples=1)
        untrained = method.load(folder)
    method, folder = fitted(**arguments)
    before, after = (validate(model, data.train)["perplexity"] for model in (untrained, method.load(folder)))
    assert after < 0.95 * before


@trained
def test_only_what_load_needs_is_left(fitted: Fitted, arguments: dict[str, Any]):
    method, folder = fitted(**arguments)
    assert not (folder / "checkpoints").exists()
    assert not list(folder.rglob("tuned.safetensors"))
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".jsonl", ".safetensors", ".md", ".yaml", ".jinja"}
    assert method.trainable_parameters > 0


class Stop(TrainerCallback):
    """Dies after a step, before it is logged or saved, or when the last one is done. Stands in for the progress bar."""

    trainer: object = None

    def __init__(self, after: int | None = None) -> None:
        self.after = after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.after:
            raise RuntimeError("the power is gone")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.after is None:
            raise RuntimeError("the power is gone")


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@trained
def test_a_fit_that_was_killed_and_resumed_is_a_fit_that_was_not(
    fitted: Fitted, make: Maker, data: TrainingData, tmp_path: Path, arguments: dict[str, Any]
):
    _, straight = fitted(**arguments)
    settings = dict(arguments)
    kind, rate = settings.pop("kind"), settings.pop("learning_rate", None)
    with pytest.raises(RuntimeError, match="power"):
        make(kind, **settings).fit(data, folder=tmp_path, seed=0, learning_rate=rate, progress=Stop(4))  # type: ignore[arg-type]
    assert not (tmp_path / METHOD_NAME).exists()
    make(kind, **settings).fit(data, folder=tmp_path, seed=0, learning_rate=rate, resume=True)
    assert weights(tmp_path) == weights(straight)
    found, wanted = (
        [record for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "validation"]
        for folder in (tmp_path, straight)
    )
    assert found == wanted


@pytest.mark.parametrize("arguments", TUNED, ids=name)
def test_a_fit_that_was_killed_when_all_steps_were_done_is_only_written_out(
    fitted: Fitted, make: Maker, data: TrainingData, tmp_path: Path, arguments: dict[str, Any]
):
    _, straight = fitted(**arguments)
    settings = dict(arguments)
    kind, rate = settings.pop("kind"), settings.pop("learning_rate", None)
    with pytest.raises(RuntimeError, match="power"):
        make(kind, **settings).fit(data, folder=tmp_path, seed=0, learning_rate=rate, progress=Stop())  # type: ignore[arg-type]
    make(kind, **settings).fit(data, folder=tmp_path, seed=0, learning_rate=rate, progress=Stop(), resume=True)  # type: ignore[arg-type]
    assert weights(tmp_path) == weights(straight)


@every
def test_another_seed_is_another_fit(fitted: Fitted, arguments: dict[str, Any]):
    same = arguments["kind"] in ("zero_shot", "rag")  # which draw nothing
    talk = talks(1, seed=5)
    first, second = (method.load(folder) for method, folder in (fitted(**arguments, seed=seed) for seed in (0, 1)))
    assert (validate(first, talk)["perplexity"] == validate(second, talk)["perplexity"]) == same


def test_a_complete_fit_is_neither_replaced_nor_trained_again(fitted: Fitted, data: TrainingData):
    method, folder = fitted("lora", learning_rate=1e-2)
    before = weights(folder)
    with pytest.raises(StorageError, match="complete fit"):
        method.fit(data, folder=folder, seed=0)
    method.fit(TrainingData([]), folder=folder, seed=0, resume=True)
    assert weights(folder) == before


def test_a_fit_is_resumed_with_its_own_seed_and_rate(make: Maker, data: TrainingData, tmp_path: Path):
    with pytest.raises(RuntimeError, match="power"):
        make("lora").fit(data, folder=tmp_path, seed=0, progress=Stop(1))  # type: ignore[arg-type]
    for change in ({"seed": 1}, {"seed": 0, "learning_rate": 0.3}):
        with pytest.raises(UsageError, match=r"recipe\.yaml"):
            make("lora").fit(data, folder=tmp_path, **change, resume=True)
    other = small_recipe(evaluation={"rerank": {"candidates": 3}})  # which no weight depends on
    make("lora", recipe=other).fit(data, folder=tmp_path, seed=0, resume=True)


def test_an_interrupted_fit_is_not_loaded(make: Maker, tmp_path: Path):
    with pytest.raises(AdapterError, match="no complete fit"):
        make("lora").load(tmp_path)


def test_a_fit_is_loaded_by_the_method_it_belongs_to(fitted: Fitted, make: Maker, gpt2_base: LoadedBase):
    _, folder = fitted("lora", learning_rate=1e-2)
    with pytest.raises(AdapterError, match="kind is 'lora'"):
        make("prefix").load(folder)
    with pytest.raises(AdapterError, match="settings is"):
        make("lora", rank=4).load(folder)
    with pytest.raises(AdapterError, match="base is 'tiny'"):
        make("lora", base=gpt2_base).load(folder)


@pytest.mark.parametrize("kind", ["lora", "prefix", "full"])
def test_damaged_weights_are_an_adapter_error(make: Maker, data: TrainingData, tmp_path: Path, kind: str):
    method = make(kind, recipe=small_recipe(training={"max_steps": 1}))
    method.fit(data, folder=tmp_path, seed=0)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AdapterError, match="cannot be loaded"):
        method.load(tmp_path)


def test_the_record_says_what_was_fitted(fitted: Fitted):
    method, folder = fitted("lora", learning_rate=1e-2)
    record = json.loads((folder / METHOD_NAME).read_text())
    assert record["kind"] == "lora"
    assert record["trainable_parameters"] == method.trainable_parameters


@pytest.mark.parametrize(
    ("kind", "package"), [("lora", "peft"), ("prefix", "peft"), ("p_tuning", "peft"), ("rag", "bm25s")]
)
def test_a_package_that_is_missing_is_named(
    make: Maker, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"package {package}; pip install"):
        make(kind).fit(data, folder=tmp_path, seed=0)


def test_every_kind_has_a_method():
    assert set(METHODS) == set(get_args(Kind))
