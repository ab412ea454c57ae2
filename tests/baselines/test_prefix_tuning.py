"""Prefix tuning: PEFT's numbers in every way the model is run, and prompt tuning's start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from small_method import Fitted, Maker, small_recipe
from test_methods import with_candidates
from torch import Tensor
from transformers import AutoModelForCausalLM, BloomConfig, MistralConfig, OPTConfig, PretrainedConfig, Qwen3Config

from small_run import talks
from sptune import build
from sptune.baselines.method import TrainingData
from sptune.baselines.prefix import FOLDER
from sptune.errors import ModelError, RecipeError
from sptune.evaluation.ranking import rank_turns
from sptune.evaluation.turns import choose_prompts
from sptune.model.backbone import Backbone
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.prompts import SoftPrompts
from sptune.model.spt import SPTModel
from tiny import packed

LENGTH = 4
WIDTHS = {"hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.2}
GROUPED = {**WIDTHS, "num_hidden_layers": 2, "intermediate_size": 48, "num_key_value_heads": 2}
ENDS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))

# Grouped heads of a width of their own, positions counted inside the model, positions as a slope over the keys
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=16, max_position_embeddings=512, **ENDS),
    "opt": lambda: OPTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32, init_std=0.2
    ),
    "bloom": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2, **ENDS),
}


def base_of(config: PretrainedConfig, like: LoadedBase) -> LoadedBase:
    config.vocab_size = len(like.tokenizer)
    torch.manual_seed(3)
    return LoadedBase(Backbone(AutoModelForCausalLM.from_config(config), base="tiny"), like.tokenizer)


def logprobs(model: SPTModel) -> Tensor:
    with torch.no_grad():
        return model(packed(model, tuple(talks(3, seed=7)))).target_logprobs


def greedy(model: SPTModel, ids: tuple[int, ...], *, steps: int) -> list[int]:
    """Greedy decoding that runs everything anew for each token."""
    made: list[int] = []
    for _ in range(steps):
        embeddings = model.backbone.embed(torch.tensor([[*ids, *made]]))
        made.append(int(model.backbone.head(model.backbone.hidden(embeddings)[0, -1]).argmax()))
        if made[-1] == model.encoder.stop_id:
            return made[:-1]
    return made


@pytest.fixture(params=["tiny_base", "gpt2_base", *CONFIGS])
def trained(
    request: pytest.FixtureRequest, make: Maker, data: TrainingData, tiny_base: LoadedBase, tmp_path: Path
) -> tuple[LoadedBase, SPTModel, Path]:
    """A base, a model of two steps of prefix tuning on it, and its folder."""
    name: str = request.param
    base = base_of(CONFIGS[name](), tiny_base) if name in CONFIGS else request.getfixturevalue(name)
    method = make("prefix", base=base, length=LENGTH, recipe=small_recipe(training={"max_steps": 2, "warmup": 0}))
    method.fit(data, folder=tmp_path, seed=0, learning_rate=0.1)
    return base, method.load(tmp_path), tmp_path


def test_it_is_peft_s_model_however_it_is_run(trained: tuple[LoadedBase, SPTModel, Path]):
    base, model, folder = trained
    stock = PeftModel.from_pretrained(copy.deepcopy(base.backbone.model), str(folder / FOLDER)).eval()
    ids = torch.arange(12)[None] * 7
    with torch.no_grad():
        wanted = stock(input_ids=ids).logits
        body = model.backbone.head(model.backbone.hidden(model.backbone.embed(ids)))
        whole = model.backbone.model(input_ids=ids).logits
    assert torch.allclose(body, wanted, atol=1e-4)
    assert torch.allclose(whole, wanted, atol=1e-4)
    assert not torch.allclose(wanted, base.backbone.model(input_ids=ids).logits, atol=1e-2)


def test_batches_of_different_lengths_generate_what_each_does_alone(trained: tuple[LoadedBase, SPTModel, Path]):
    _, model, _ = trained
    contexts = [talk.context(len(talk.turns) - 1) for talk in talks(4, seed=8)]
    replies = model.generate(contexts, decoding=Decoding(max_new_tokens=6))
    for context, reply in zip(contexts, replies, strict=True):
        assert list(reply.tokens) == greedy(model, model.encoder.encode_context(context).input_ids, steps=6)


def test_beams_read_the_prefix_too(trained: tuple[LoadedBase, SPTModel, Path]):
    _, model, _ = trained
    contexts = [talk.context(0) for talk in talks(3, seed=8)]
    beams = Decoding(max_new_tokens=5, num_beams=3)
    together = [reply.tokens for reply in model.generate(contexts, decoding=beams)]
    assert together == [model.generate([context], decoding=beams)[0].tokens for context in contexts]


def test_candidates_rank_the_same_in_every_way(trained: tuple[LoadedBase, SPTModel, Path]):
    _, model, _ = trained
    turns = choose_prompts(model, with_candidates(talks(4, seed=9)))
    found = rank_turns(model, turns)
    assert found == rank_turns(model, turns, way="separate")
    assert len({rank.rank for rank in found}) > 1


def test_it_starts_where_prompt_tuning_starts(make: Maker, data: TrainingData, tiny_base: LoadedBase, tmp_path: Path):
    """Keys and values of L vocabulary rows are what a soft prompt of these rows is."""
    method = make("prefix", length=LENGTH, recipe=small_recipe(training={"max_steps": 1}))
    method.fit(TrainingData(data.train), folder=tmp_path, seed=3, learning_rate=1e-12)
    rows = torch.randperm(len(tiny_base.backbone.embedding_table), generator=torch.Generator().manual_seed(3))[:LENGTH]
    bare = build.make_bare_model(small_recipe(), base=tiny_base)
    prompts = SoftPrompts(tiny_base.backbone.embed(rows)[None])
    bare.encoder.prompt_length = LENGTH
    prompted = SPTModel(bare.backbone, prompts, bare.retriever, bare.encoder)
    assert torch.allclose(logprobs(method.load(tmp_path)), logprobs(prompted), atol=1e-4)


def test_the_prefix_takes_its_places_of_the_window(fitted: Fitted, tiny_base: LoadedBase):
    method, folder = fitted("prefix", length=4, learning_rate=5e-2)
    model = method.load(folder)
    assert model.backbone.window == model.encoder.window == (tiny_base.backbone.window or 0) - 4


def test_its_parameters_are_keys_and_values_of_every_layer(fitted: Fitted):
    method, _ = fitted("prefix", length=4, learning_rate=5e-2)
    assert method.trainable_parameters == 4 * 2 * 2 * 2 * 8  # L, layers, keys and values, key-value heads, head width


def test_a_model_with_a_sliding_window_is_refused(
    make: Maker, data: TrainingData, tiny_base: LoadedBase, tmp_path: Path
):
    config = MistralConfig(**GROUPED, sliding_window=16, max_position_embeddings=512, **ENDS)
    with pytest.raises(ModelError, match="every position"):
        make("prefix", base=base_of(config, tiny_base)).fit(data, folder=tmp_path, seed=0)


def test_recomputed_activations_are_refused(make: Maker, data: TrainingData, tmp_path: Path):
    recipe = small_recipe(model={"gradient_checkpointing": True})
    with pytest.raises(RecipeError, match="gradient_checkpointing"):
        make("prefix", recipe=recipe).fit(data, folder=tmp_path, seed=0)
