"""SPT with LoRA, and SPT by itself: which weights move, at which rate, on what budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_method import Fitted, Maker, small_recipe

from sptune.adapter import load_adapter
from sptune.baselines.method import TrainingData
from sptune.baselines.spt_lora import divided, with_share
from sptune.config import dump_recipe, load_recipe
from sptune.errors import ModelError
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from sptune.training.metrics_log import read_metrics

PROMPTS = 2 * 3 * 32
RETRIEVER = 32 * 32 + 32


def steps(folder: Path) -> int:
    return max(record["step"] for record in read_metrics(folder / "metrics.jsonl"))


def test_all_that_is_trained_is_counted(fitted: Fitted):
    lora = fitted("lora", learning_rate=1e-2)[0].trainable_parameters
    assert fitted("spt", learning_rate=5e-2)[0].trainable_parameters == PROMPTS + RETRIEVER
    for joint in (False, True):
        method, _ = fitted("spt_lora", joint=joint, lora_lr=1e-2, learning_rate=5e-2)
        assert method.trainable_parameters == PROMPTS + RETRIEVER + lora


def test_one_prompt_leaves_the_retriever_nothing_to_learn(make: Maker, data: TrainingData, tmp_path: Path):
    method = make("spt", recipe=small_recipe(prompts={"count": 1}, training={"max_steps": 1}))
    method.fit(data, folder=tmp_path, seed=0)
    assert method.trainable_parameters == PROMPTS // 2


def test_each_of_what_is_trained_together_has_its_own_rate(make: Maker, data: TrainingData, tmp_path: Path):
    """With a rate next to nothing, only the other part moves."""
    moved = {}
    for name, rate, lora_lr in (("start", 1e-12, 1e-12), ("prompts", 0.1, 1e-12), ("lora", 1e-12, 0.1)):
        recipe = small_recipe(training={"max_steps": 1, "warmup": 0, "retriever_lr": 1e-12})
        method = make("spt_lora", joint=True, lora_lr=lora_lr, recipe=recipe)
        method.fit(TrainingData(data.train), folder=tmp_path / name, seed=0, learning_rate=rate)
        prompts = load_adapter(tmp_path / name / "adapter").tensors["prompts"]
        (path,) = (tmp_path / name / "lora").glob("*.safetensors")
        moved[name] = prompts, torch.cat([t.flatten() for _, t in sorted(load_file(path).items())])
    (prompts, lora) = moved["start"]
    assert not torch.allclose(moved["prompts"][0], prompts, atol=1e-3)
    assert torch.allclose(moved["prompts"][1], lora, atol=1e-3)
    assert torch.allclose(moved["lora"][0], prompts, atol=1e-3)
    assert not torch.allclose(moved["lora"][1], lora, atol=1e-3)


def test_lora_first_and_spt_share_one_budget(make: Maker, data: TrainingData, tmp_path: Path):
    recipe = small_recipe(training={"max_steps": 8})
    method = make("spt_lora", lora_lr=1e-2, lora_share=0.25, recipe=recipe)
    method.fit(data, folder=tmp_path, seed=0)
    assert (steps(tmp_path / "first"), steps(tmp_path)) == (2, 6)
    assert with_share(small_recipe(training={"epochs": 2}), 0.25).training.max_steps is None


def test_lora_first_and_spt_learn_from_other_dialogues_and_together_from_all(data: TrainingData):
    for share, seed in ((0.25, 0), (0.5, 1), (0.99, 2)):
        one, other = divided(data, share, seed=seed)
        assert one.train
        assert other.train
        assert sorted(talk.id for talk in (*one.train, *other.train)) == sorted(talk.id for talk in data.train)
        assert one.validation == other.validation == data.validation
    single = TrainingData(data.train[:1])
    assert [list(part.train) for part in divided(single, 0.5, seed=0)] == [list(single.train)] * 2


def test_an_adapter_on_changed_weights_is_not_taken_for_one_of_the_base(fitted: Fitted, tiny_base: LoadedBase):
    for joint in (False, True):
        _, folder = fitted("spt_lora", joint=joint, lora_lr=1e-2, learning_rate=5e-2)
        assert load_adapter(folder / "adapter").config.base.id == "tiny+lora"
        with pytest.raises(ModelError, match=r"tiny\+lora"):
            SPTModel.from_pretrained(folder / "adapter")


def test_spt_leaves_a_run_folder(fitted: Fitted, tiny_base: LoadedBase):
    method, folder = fitted("spt", learning_rate=5e-2, seed=4)
    recipe = load_recipe(folder / "recipe.yaml")
    assert (recipe.seed, recipe.training.prompt_lr) == (4, 5e-2)
    assert dump_recipe(recipe) == (folder / "recipe.yaml").read_text()
    alone = SPTModel.from_pretrained(folder, base=tiny_base)
    assert torch.equal(alone.prompts.embeddings, method.load(folder).prompts.embeddings)
