"""The adapter folder: what is saved comes back exactly; what is damaged or hostile is refused with a useful message."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sptune.adapter import (
    CONFIG_NAME,
    FORMAT_VERSION,
    MAX_CONFIG_BYTES,
    WEIGHTS_NAME,
    Adapter,
    AdapterConfig,
    BaseConfig,
    RetrieverConfig,
    TemplateConfig,
    load_adapter,
    save_adapter,
)
from sptune.errors import AdapterError, StorageError


def make_adapter(length: int = 2, **changes: Any) -> Adapter:
    """K = 3 prompts of `length` virtual tokens of width 5, with a linear retriever."""
    generator = torch.Generator().manual_seed(0)
    config = AdapterConfig(
        base=BaseConfig(id="some/base", revision="main", embedding_sha256="0" * 64),
        num_prompts=3,
        prompt_length=length,
        embedding_dim=5,
        retriever=RetrieverConfig(kind="linear", hidden=4, activation="relu"),
        template=TemplateConfig(kind="jinja", source="{{ persona }}", max_length=300, reserve=30, learn_stop=False),
        stops=("\n", "Q:"),
    )
    tensors = {
        "prompts": torch.randn(3, length, 5, generator=generator),
        "retriever.centre": torch.randn(5, generator=generator),
        "retriever.map.weight": torch.randn(4, 5, generator=generator),
        "retriever.map.bias": torch.randn(4, generator=generator),
    }
    return Adapter(config.model_copy(update=changes), tensors)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", make_adapter(), card="# A card\n")
    return tmp_path / "adapter"


def change_config(folder: Path, **changes: Any) -> None:
    """Set keys of adapter_config.json; a dotted key reaches into an object."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = config
        for name in outer:
            place = place[name]
        place[last] = value
    (folder / CONFIG_NAME).write_text(json.dumps(config))


def change_tensors(folder: Path, **changes: Tensor | None) -> None:
    tensors = {**make_adapter().tensors, **{name.replace("__", "."): value for name, value in changes.items()}}
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / WEIGHTS_NAME)


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_saved_adapter_comes_back_exactly(tmp_path: Path, length: int):
    adapter = make_adapter(length)
    save_adapter(tmp_path / "new" / "adapter", adapter, card="# A card\n")
    loaded = load_adapter(tmp_path / "new" / "adapter")
    assert loaded.config == adapter.config
    assert loaded.tensors.keys() == adapter.tensors.keys()
    for name, tensor in adapter.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)
        assert loaded.tensors[name].dtype == torch.float32
    files = sorted(path.name for path in (tmp_path / "new" / "adapter").iterdir())
    assert files == ["README.md", CONFIG_NAME, WEIGHTS_NAME]


def test_views_and_half_precision_are_saved_as_whole_float32_tensors(tmp_path: Path):
    adapter = make_adapter()
    wide = torch.randn(3, 2, 10)
    tensors = {
        **adapter.tensors,
        "prompts": wide[..., ::2],
        "retriever.centre": adapter.tensors["retriever.centre"].bfloat16(),
    }
    save_adapter(tmp_path / "adapter", Adapter(adapter.config, tensors), card="")
    loaded = load_adapter(tmp_path / "adapter").tensors
    assert torch.equal(loaded["prompts"], wide[..., ::2])
    assert torch.equal(loaded["retriever.centre"], tensors["retriever.centre"].float())


def test_saving_again_replaces_the_whole_folder(folder: Path):
    (folder / "left over").touch()
    save_adapter(folder, make_adapter(length=4), card="")
    assert load_adapter(folder).config.prompt_length == 4
    assert not (folder / "left over").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_not_saved(folder: Path, value: float):
    adapter = make_adapter()
    adapter.tensors["retriever.map.bias"][1] = value
    before = (folder / WEIGHTS_NAME).read_bytes()
    with pytest.raises(AdapterError, match=r"retriever\.map\.bias.*not finite.*not saved"):
        save_adapter(folder, adapter, card="")
    assert (folder / WEIGHTS_NAME).read_bytes() == before


def test_a_full_disk_keeps_the_adapter_that_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        save_adapter(folder, make_adapter(length=4), card="")
    assert load_adapter(folder).config.prompt_length == 2
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


# Damaged and hostile configurations.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 4}, r"format_version is 4; this sptune .* reads 1 to 3; update sptune"),
        ({"decoding__kind": "rerank"}, r"decoding\.kind"),
        ({"decoding__gate_temperature": 0.0}, r"decoding\.gate_temperature"),
        ({"format_version": 0}, "format_version is 0"),
        ({"format_version": None}, "format_version is None"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"format_version": True}, "format_version"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type"),
        ({"surprise": 1}, "surprise"),
        ({"retriever__surprise": 1}, r"retriever\.surprise"),
        ({"num_prompts": "3"}, "num_prompts"),
        ({"num_prompts": 3.0}, "num_prompts"),
        ({"num_prompts": True}, "num_prompts"),
        ({"num_prompts": 0}, "num_prompts"),
        ({"num_prompts": 10**30}, "num_prompts"),
        ({"prompt_length": -1}, "prompt_length"),
        ({"retriever": None}, "retriever"),
        ({"retriever__kind": "os.system"}, r"retriever\.kind"),
        ({"retriever__hidden": 10**12}, r"retriever\.hidden"),
        ({"retriever__input": "response"}, r"retriever\.input"),
        ({"retriever__half_life": 0}, r"retriever\.half_life"),
        ({"retriever__half_life": 1e7}, r"retriever\.half_life"),
        ({"retriever__rank": 0}, r"retriever\.rank"),
        ({"retriever__rank": 64.5}, r"retriever\.rank"),
        ({"retriever__keys": 3}, r"retriever\.keys"),
        ({"template__kind": "python"}, r"template\.kind"),
        ({"template__source": None}, r"template\.source"),
        ({"template__kind": "paper"}, r"template\.source"),
        ({"template__max_length": "512"}, r"template\.max_length"),
        ({"base__embedding_sha256": "../../etc/passwd"}, r"base\.embedding_sha256"),
        ({"base__id": 7}, r"base\.id"),
        ({"stops": "Q:"}, "stops"),
        ({"stops": [""]}, "stops"),
    ],
)
def test_a_config_that_is_wrong_is_refused_by_name(folder: Path, changes: dict[str, Any], message: str):
    change_config(folder, **changes)
    with pytest.raises(AdapterError, match=rf"adapter_config\.json: .*{message}"):
        load_adapter(folder)


def test_format_1_is_read_as_the_newest(folder: Path):
    """It is format 3 without five keys, whose defaults are what it meant."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    for key in ("input", "half_life", "rank", "keys"):
        del config["retriever"][key]
    del config["decoding"]
    (folder / CONFIG_NAME).write_text(json.dumps({**config, "format_version": 1}))
    assert load_adapter(folder).config == make_adapter().config
    assert load_adapter(folder).config.format_version == FORMAT_VERSION == 3


def test_format_2_lets_the_chosen_prompt_speak(folder: Path):
    config = json.loads((folder / CONFIG_NAME).read_text())
    del config["decoding"]
    (folder / CONFIG_NAME).write_text(json.dumps({**config, "format_version": 2}))
    assert load_adapter(folder).config == make_adapter().config
    assert load_adapter(folder).config.decoding.kind == "top1"


def test_format_1_with_a_later_key_is_read_by_the_key(folder: Path):
    """No reader of format 1 wrote it or would take it, so it can only have been meant."""
    change_config(folder, format_version=1, retriever__half_life=3.0)
    assert load_adapter(folder).config.retriever.half_life == 3


def test_the_centre_is_as_wide_as_what_is_read(folder: Path):
    """That of hidden states is compared with the base model, where one is loaded."""
    change_tensors(folder, retriever__centre=torch.zeros(9))
    with pytest.raises(AdapterError, match=r"retriever\.centre has shape \(9,\)"):
        load_adapter(folder)
    change_config(folder, retriever__input="hidden", retriever__keys=True)
    assert load_adapter(folder).tensors["retriever.centre"].shape == (9,)


def test_every_fault_of_a_config_is_named_at_once(folder: Path):
    change_config(folder, num_prompts="3", surprise=1, retriever__kind="x")
    with pytest.raises(AdapterError, match=r"(?=.*num_prompts)(?=.*surprise)(?=.*retriever\.kind)"):
        load_adapter(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format_version": 1}',
        pickle.dumps({"format_version": 1}),
    ],
    ids=["empty", "cut", "list", "number", "not UTF-8", "deep", "bare", "pickle"],
)
def test_a_config_that_is_damaged_is_refused(folder: Path, content: bytes):
    (folder / CONFIG_NAME).write_bytes(content)
    with pytest.raises(AdapterError, match=r"adapter_config\.json: "):
        load_adapter(folder)


def test_a_huge_config_is_not_read(folder: Path):
    with (folder / CONFIG_NAME).open("ab") as file:
        file.write(b" " * MAX_CONFIG_BYTES)
    with pytest.raises(AdapterError, match="larger than"):
        load_adapter(folder)


# Damaged and hostile weights.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": None}, "prompts is missing"),
        ({"retriever__centre": None}, r"retriever\.centre is missing"),
        ({"surprise": torch.zeros(1)}, "unknown tensor surprise"),
        ({"../../prompts": torch.zeros(1)}, r"unknown tensor \.\./\.\./prompts"),
        ({"prompts": torch.zeros(3, 2, 6)}, r"prompts has shape \(3, 2, 6\), adapter_config\.json says \(3, 2, 5\)"),
        ({"prompts": torch.zeros(30)}, r"prompts has shape \(30,\)"),
        ({"retriever__centre": torch.zeros(())}, r"retriever\.centre has shape \(\)"),
        ({"prompts": torch.zeros(3, 2, 5, dtype=torch.float16)}, "prompts is F16; adapters hold F32 only"),
        ({"prompts": torch.zeros(3, 2, 5, dtype=torch.int64)}, "prompts is I64"),
        ({"prompts": torch.full((3, 2, 5), float("nan"))}, "prompts holds values that are not finite"),
        (
            {"retriever__map__bias": torch.full((4,), float("inf"))},
            r"retriever\.map\.bias holds values that are not finite",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(folder: Path, changes: dict[str, Tensor | None], message: str):
    change_tensors(folder, **changes)
    with pytest.raises(AdapterError, match=rf"adapter_model\.safetensors: .*{message}"):
        load_adapter(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_cut_weights_are_refused(folder: Path, share: float):
    whole = (folder / WEIGHTS_NAME).read_bytes()
    (folder / WEIGHTS_NAME).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: .*cut short.*get the adapter again"):
        load_adapter(folder)


@pytest.mark.parametrize(
    "header",
    [
        {"prompts": {"dtype": "F32", "shape": [3, 2, 5], "data_offsets": [0, 2**60]}},
        {"prompts": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 120]}},
        {"prompts": {"dtype": "F32", "shape": [3, 2, 5], "data_offsets": [120, 0]}},
    ],
    ids=["beyond the end", "overflow", "backwards"],
)
def test_a_safetensors_header_that_lies_is_refused(folder: Path, header: dict[str, Any]):
    text = json.dumps(header).encode()
    (folder / WEIGHTS_NAME).write_bytes(struct.pack("<Q", len(text)) + text + bytes(120))
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: not a safetensors file"):
        load_adapter(folder)


class _Trap:
    """Unpickling it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("name", [WEIGHTS_NAME, CONFIG_NAME])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_never_runs(folder: Path, tmp_path: Path, name: str, writer: str):
    place = tmp_path / "sprung"
    pickle.loads(pickle.dumps(_Trap(place)))
    assert place.exists()  # the trap works
    place.rmdir()
    if writer == "pickle":
        (folder / name).write_bytes(pickle.dumps(_Trap(place)))
    else:
        torch.save(_Trap(place), folder / name)
    with pytest.raises(AdapterError, match=name):
        load_adapter(folder)
    assert not place.exists()


@pytest.mark.parametrize("name", [WEIGHTS_NAME, CONFIG_NAME])
@pytest.mark.parametrize("kind", ["missing", "folder", "dangling link", "pipe"])
def test_a_file_that_is_none_is_refused(folder: Path, name: str, kind: str):
    (folder / name).unlink()
    if kind == "folder":
        (folder / name).mkdir()
    elif kind == "dangling link":
        (folder / name).symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(folder / name)
    with pytest.raises(AdapterError, match=rf"{name}: missing; an adapter folder holds"):
        load_adapter(folder)


def test_only_the_two_named_files_are_opened(folder: Path):
    (folder / "README.md").unlink()
    for name in (
        "README.md",
        "adapter_model.bin",
        "config.json",
        "model.safetensors.index.json",
        "prompts",
        "__init__.py",
    ):
        (folder / name).mkdir()  # opening one raises
    assert load_adapter(folder).config == make_adapter().config


def test_no_folder_says_where_adapters_come_from(tmp_path: Path, folder: Path):
    for wrong in (tmp_path / "absent", folder / CONFIG_NAME):
        with pytest.raises(AdapterError, match=rf"{wrong}: no such adapter folder; `sptune train`"):
            load_adapter(wrong)
