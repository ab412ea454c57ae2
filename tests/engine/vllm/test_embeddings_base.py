from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from model.architectures import CONFIGS, make_architecture
from small_run import save_base
from sptune.data.dialogue import Dialogue
from sptune.engine.loaded_adapter import AdapterLoader
from sptune.engine.vllm.embeddings_base import load_embeddings
from sptune.errors import AdapterError, ModelError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.retriever import Reading, Retriever
from sptune.model.spt import SPTModel
from sptune.model.streams import end_tokens
from tiny import tiny_spt

WEIGHTS, TABLE = "model.safetensors", "model.embed_tokens.weight"


def assert_same(found: Backbone, whole: Backbone) -> None:
    """All that choosing a prompt asks of a backbone."""
    assert torch.equal(found.vocabulary(), whole.vocabulary())
    assert torch.equal(found.embedding_table, whole.embedding_table)
    assert found.embedding_hash() == whole.embedding_hash()
    for name in ("embedding_dim", "hidden_dim", "window", "dtype", "device"):
        assert getattr(found, name) == getattr(whole, name), name


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_embeds_as_the_whole_model_does(name: str, tiny_base: LoadedBase, tmp_path: Path):
    """Among them tied and untied ones, Gemma with its factor, and one whose embeddings are narrower than its states."""
    base = LoadedBase(Backbone(make_architecture(name, len(tiny_base.tokenizer)), base=name), tiny_base.tokenizer)
    assert_same(load_embeddings(str(save_base(base, tmp_path))).backbone, base.backbone)


@pytest.mark.parametrize("way", ["sharded", "body", "parts", "tied head"])
def test_wherever_a_checkpoint_keeps_the_table(way: str, tiny_base: LoadedBase, tmp_path: Path):
    model = tiny_base.backbone.model
    save_base(tiny_base, tmp_path)
    if way == "sharded":
        (tmp_path / WEIGHTS).unlink()
        model.save_pretrained(tmp_path, max_shard_size="40KB")
        assert not (tmp_path / WEIGHTS).exists()
    else:
        tensors = load_file(tmp_path / WEIGHTS)
        new = {"body": "embed_tokens.weight", "parts": f"language_model.{TABLE}", "tied head": "lm_head.weight"}[way]
        tensors[new] = tensors.pop(TABLE)
        save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
        config = LlamaConfig.from_dict(model.config.to_dict() | {"tie_word_embeddings": way == "tied head"})
        config.save_pretrained(tmp_path)
    assert_same(load_embeddings(str(tmp_path)).backbone, tiny_base.backbone)


def test_numbers_are_as_they_are_saved_or_as_asked_for(tiny_base: LoadedBase, tmp_path: Path):
    model = make_architecture("llama", len(tiny_base.tokenizer)).to(torch.bfloat16)
    save_base(LoadedBase(Backbone(model, base="half"), tiny_base.tokenizer), tmp_path)
    half, whole = (load_embeddings(str(tmp_path), dtype=dtype).backbone for dtype in ("auto", "float32"))
    assert (half.dtype, whole.dtype) == (torch.bfloat16, torch.float32)
    assert half.embedding_hash() == whole.embedding_hash() == Backbone(model, base="half").embedding_hash()


def test_end_tokens_are_those_of_the_generation_config(tiny_base: LoadedBase, tmp_path: Path):
    save_base(tiny_base, tmp_path)
    GenerationConfig(eos_token_id=[3, 7], do_sample=True, top_k=3).save_pretrained(tmp_path)
    base = load_embeddings(str(tmp_path))
    model = tiny_spt(base, learn_stop=False)
    assert end_tokens(model) == (3, 7)


def peak_bytes() -> int:
    """The most memory that this process had since it was last forgotten."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(re.findall(r"\d+", line)[0])


def test_no_layer_takes_memory(tiny_base: LoadedBase, tmp_path: Path):
    config = LlamaConfig(
        vocab_size=len(tiny_base.tokenizer),
        hidden_size=512,
        intermediate_size=4096,
        num_hidden_layers=8,
        num_attention_heads=4,
    )
    with torch.device("meta"):
        whole = LlamaForCausalLM(config)
    whole.to_empty(device="cpu")
    size = 4 * sum(parameter.numel() for parameter in whole.parameters())
    whole.save_pretrained(tmp_path)
    tiny_base.tokenizer.save_pretrained(tmp_path)
    load_embeddings(str(tmp_path))  # what is imported for the first time takes memory too
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    backbone = load_embeddings(str(tmp_path)).backbone
    assert size > 200e6
    assert peak_bytes() - before < size / 10
    held = [name for name, parameter in backbone.named_parameters() if parameter.device.type != "meta"]
    assert held == ["model.model.embed_tokens.weight"]


def test_prompts_are_chosen_as_by_the_whole_model(
    embeddings: LoadedBase, tiny_base: LoadedBase, folders: dict[str, Path], contexts: list[Dialogue]
):
    for folder in folders.values():
        alone, whole = (AdapterLoader(base).load(folder) for base in (embeddings, tiny_base))
        for context in contexts:
            ids = whole.model.encoder.encode_context(context).input_ids
            assert alone.model.encoder.encode_context(context).input_ids == ids
            assert torch.equal(alone.scores(ids), whole.scores(ids))


def test_an_adapter_that_reads_hidden_states_is_refused(
    embeddings: LoadedBase, tiny_model: Callable[..., SPTModel], tmp_path: Path
):
    retriever = Retriever("linear", dim=32, reading=Reading("hidden"), keys=3)
    tiny_model(retriever=retriever).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=r"reads the model's hidden states.*--engine local"):
        AdapterLoader(embeddings).load(tmp_path)
    with pytest.raises(ModelError, match="only the embedding table"):
        embeddings.backbone.hidden(torch.zeros(1, 2, 32))


@pytest.mark.parametrize("fault", ["folder", "weights", "table", "shard", "tokenizer", "integers", "width"])
def test_what_cannot_be_loaded_is_one_message(fault: str, tiny_base: LoadedBase, tmp_path: Path):
    save_base(tiny_base, tmp_path)
    model, tensors = tiny_base.backbone.model, load_file(tmp_path / WEIGHTS)
    table = tensors[TABLE]
    match fault:
        case "weights":
            (tmp_path / WEIGHTS).unlink()
        case "table":
            del tensors[TABLE]
        case "shard":
            (tmp_path / f"{WEIGHTS}.index.json").write_text(f'{{"weight_map": {{"{TABLE}": "gone.safetensors"}}}}')
        case "integers":
            tensors[TABLE] = table.to(torch.int8)
        case "width":
            tensors[TABLE] = table[:, :8].contiguous()
        case "tokenizer":
            LlamaConfig.from_dict(model.config.to_dict() | {"vocab_size": 9}).save_pretrained(tmp_path)
            tensors[TABLE] = table[:9].contiguous()
    if fault != "weights":
        save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    told = {
        "folder": "./nothing is no folder",
        "weights": "no model.safetensors; save the model with save_pretrained",
        "table": "no word embedding table among its tensors",
        "shard": "gone.safetensors is missing",
        "tokenizer": "the embedding table only 9",
        "integers": "saved as torch.int8",
        "width": "more than a table.*--engine local",
    }
    with pytest.raises(ModelError, match=told[fault]):
        load_embeddings("./nothing" if fault == "folder" else str(tmp_path))
