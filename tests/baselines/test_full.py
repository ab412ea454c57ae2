"""Full fine-tuning: true gradients everywhere, float32 weights under a bfloat16 base, a whole model on disk."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from small_method import Fitted, Maker, small_recipe
from transformers import AutoModelForCausalLM

from small_run import talks
from sptune import build
from sptune.baselines.full import FOLDER, TrainableBackbone
from sptune.baselines.method import TrainingData
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase, load_base
from sptune.training.metrics_log import read_metrics
from sptune.training.validation import validate
from tiny import packed


@pytest.mark.parametrize("base", ["tiny_base", "gpt2_base"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_gradients_are_those_of_plain_cross_entropy(base: str, recompute: bool, request: pytest.FixtureRequest):
    shared: LoadedBase = request.getfixturevalue(base)
    own = TrainableBackbone(shared)
    if recompute:
        own.checkpoint_activations()
    model = build.make_bare_model(small_recipe(), base=LoadedBase(own, shared.tokenizer))
    batch = packed(model, tuple(talks(2, seed=3)))
    (-model(batch).target_logprobs.mean()).backward()
    plain = copy.deepcopy(shared.backbone.model).requires_grad_(True)
    logits = plain(input_ids=batch.input_ids).logits[batch.target_row, batch.target_position]
    torch.nn.functional.cross_entropy(logits, batch.target_ids).backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in own.model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.allclose(parameter.grad, wanted[name].grad, atol=1e-6), name


def test_tied_embeddings_stay_tied(make: Maker, data: TrainingData, gpt2_base: LoadedBase, tmp_path: Path):
    method = make("full", base=gpt2_base, recipe=small_recipe(training={"max_steps": 2}))
    method.fit(data, folder=tmp_path, seed=0, learning_rate=1e-3)
    model = method.load(tmp_path).backbone.model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not torch.equal(model.get_input_embeddings().weight, gpt2_base.backbone.embedding_table)
    unique = sum(p.numel() for p in gpt2_base.backbone.model.parameters())
    assert method.trainable_parameters == unique


def test_what_is_kept_is_a_transformers_model_with_its_tokenizer(fitted: Fitted, data: TrainingData):
    method, folder = fitted("full", learning_rate=1e-3)
    stock = AutoModelForCausalLM.from_pretrained(folder / FOLDER)
    ids = torch.arange(10)[None]
    model = method.load(folder)
    assert torch.allclose(stock(input_ids=ids).logits, model.backbone.model(input_ids=ids).logits, atol=1e-6)
    alone = build.make_bare_model(small_recipe(), base=load_base(str(folder / FOLDER), dtype="float32", device="cpu"))
    assert validate(alone, data.validation) == validate(model, data.validation)


def test_under_a_bfloat16_base_small_steps_are_not_lost(
    make: Maker, data: TrainingData, tiny_base: LoadedBase, tmp_path: Path
):
    half = copy.deepcopy(tiny_base.backbone.model).to(torch.bfloat16)
    base = LoadedBase(Backbone(half, base="tiny"), tiny_base.tokenizer)
    assert {p.dtype for p in TrainableBackbone(base).parameters()} == {torch.float32}
    method = make("full", base=base, recipe=small_recipe(training={"epochs": 1}))
    method.fit(data, folder=tmp_path, seed=0, learning_rate=1e-3)
    model = method.load(tmp_path)
    assert model.backbone.dtype == torch.bfloat16
    best = min(r["perplexity"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "validation")
    assert validate(model, data.validation)["perplexity"] == pytest.approx(best, rel=0.02)
