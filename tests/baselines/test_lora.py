"""LoRA: exact where it says nothing yet, PEFT's own format, merged or beside the base's weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from small_method import Fitted, Maker, small_recipe
from torch import Tensor

from small_run import talks
from sptune import build
from sptune.baselines.lora import FOLDER, add_lora, merged_lora, with_lora
from sptune.baselines.method import TrainingData
from sptune.baselines.own_backbone import own_base
from sptune.config.compare import MethodSettings
from sptune.errors import RecipeError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from tiny import packed


def logprobs(model: SPTModel) -> Tensor:
    with torch.no_grad():
        return model(packed(model, tuple(talks(3, seed=7)))).target_logprobs


def bare(base: LoadedBase) -> SPTModel:
    return build.make_bare_model(small_recipe(), base=base)


def in_bfloat16(base: LoadedBase) -> LoadedBase:
    model = copy.deepcopy(base.backbone.model).to(torch.bfloat16)
    return LoadedBase(Backbone(model, base=base.backbone.base), base.tokenizer)


def settings(**values: Any) -> MethodSettings:
    return MethodSettings(kind="lora", **values)


@pytest.mark.parametrize("base", ["tiny_base", "gpt2_base"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_lora_that_has_learned_nothing_changes_nothing(base: str, half: bool, request: pytest.FixtureRequest):
    shared: LoadedBase = request.getfixturevalue(base)
    shared = in_bfloat16(shared) if half else shared
    own = own_base(shared, "lora")
    add_lora(own, settings(), seed=0)
    assert torch.equal(logprobs(bare(own)), logprobs(bare(shared)))


def test_only_low_rank_layers_are_trained(tiny_base: LoadedBase):
    own = own_base(tiny_base, "lora")
    add_lora(own, settings(rank=4, targets=("q_proj",)), seed=0)
    trained = {name: p for name, p in own.backbone.named_parameters() if p.requires_grad}
    assert all("lora_" in name and "q_proj" in name for name in trained)
    assert sum(p.numel() for p in trained.values()) == 2 * (32 * 4 + 4 * 32)  # 2 layers, 32 -> 4 -> 32


def test_the_seed_makes_the_layers_and_nothing_else(tiny_base: LoadedBase):
    def drawn(seed: int) -> Tensor:
        own = own_base(tiny_base, "lora")
        add_lora(own, settings(), seed=seed)
        return torch.cat([p.flatten() for p in own.backbone.parameters() if p.requires_grad])

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head", "no_such_layer"])
def test_layers_that_cannot_be_trained_are_refused(tiny_base: LoadedBase, target: str):
    with pytest.raises(RecipeError, match="targets"):
        add_lora(own_base(tiny_base, "lora"), settings(targets=(target,)), seed=0)


def test_stock_peft_gives_the_same_numbers(fitted: Fitted, tiny_base: LoadedBase):
    method, folder = fitted("lora", learning_rate=1e-2)
    model = method.load(folder)
    stock = PeftModel.from_pretrained(copy.deepcopy(tiny_base.backbone.model), str(folder / FOLDER)).eval()
    ids = torch.arange(12)[None] * 7
    with torch.no_grad():
        wanted = stock(input_ids=ids).logits
        given = model.backbone.head(model.backbone.hidden(model.backbone.embed(ids)))
    assert torch.allclose(given, wanted, atol=1e-5)
    assert not torch.allclose(given, tiny_base.backbone.model(input_ids=ids).logits, atol=1e-2)


def test_merged_it_is_the_same_model(fitted: Fitted, tiny_base: LoadedBase):
    method, folder = fitted("lora", learning_rate=1e-2)
    merged = merged_lora(tiny_base, folder / FOLDER)
    assert not any("lora" in name for name, _ in merged.backbone.named_parameters())
    assert not any(p.requires_grad for p in merged.backbone.parameters())
    assert torch.allclose(logprobs(bare(merged)), logprobs(method.load(folder)), atol=1e-4)


def test_in_bfloat16_merging_costs_rounding_and_loading_costs_nothing(
    make: Maker, data: TrainingData, tiny_base: LoadedBase, tmp_path: Path
):
    base = in_bfloat16(tiny_base)
    method = make("lora", base=base)
    method.fit(data, folder=tmp_path, seed=0, learning_rate=1e-2)
    beside = logprobs(method.load(tmp_path))
    merged = logprobs(bare(merged_lora(base, tmp_path / FOLDER)))
    assert torch.equal(beside, logprobs(bare(with_lora(base, tmp_path / FOLDER))))
    assert (merged - beside).abs().mean() < 0.05
    assert (merged - beside).abs().mean() < 0.1 * (beside - logprobs(bare(base))).abs().mean()


def test_a_copy_has_a_name_of_its_own(fitted: Fitted):
    method, folder = fitted("lora", learning_rate=1e-2)
    assert method.load(folder).backbone.base == "tiny+lora"


def test_dropout_is_for_training_only(tiny_base: LoadedBase):
    own = own_base(tiny_base, "lora")
    add_lora(own, settings(dropout=0.5), seed=0)
    for name, parameter in own.backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model = bare(own)
    model.train()
    assert not torch.equal(logprobs(model), logprobs(model))
    model.eval()
    assert torch.equal(logprobs(model), logprobs(model))


def test_recomputed_activations_give_the_same_training(make: Maker, data: TrainingData, tmp_path: Path):
    few = TrainingData(data.train[:3])
    losses = []
    for recompute in (False, True):
        recipe = small_recipe(training={"max_steps": 2}, model={"gradient_checkpointing": recompute})
        method = make("lora", recipe=recipe, dropout=0.2)
        folder = tmp_path / str(recompute)
        method.fit(few, folder=folder, seed=0, learning_rate=1e-2)
        losses.append(logprobs(method.load(folder)))
    assert torch.allclose(*losses, atol=1e-5)


def test_gpt2_learns_too(make: Maker, data: TrainingData, gpt2_base: LoadedBase, tmp_path: Path):
    method = make("lora", base=gpt2_base)
    method.fit(replace(data, validation=()), folder=tmp_path, seed=0, learning_rate=1e-2)
    assert logprobs(method.load(tmp_path)).mean() > logprobs(bare(gpt2_base)).mean()
