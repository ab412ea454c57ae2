"""A stock PEFT `PROMPT_TUNING` adapter on disk: read and check one, or write one, without PEFT. No pickle, ever."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sptune.adapter import CONFIG_NAME, MAX_CONFIG_BYTES, WEIGHTS_NAME
from sptune.errors import AdapterError, UsageError
from sptune.files import storage_errors

if TYPE_CHECKING:
    from torch import Tensor

PEFT_TYPE = "PROMPT_TUNING"
PEFT_KEY = "prompt_embeddings"
CARD_NAME = "README.md"

_FLOATS = ("F64", "F32", "F16", "BF16")
_PROMPT_FOLDER = re.compile(r"prompt-\d+")


class _PeftConfig(BaseModel):
    """The keys of `adapter_config.json` that matter here; others come and go with PEFT's versions."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    peft_type: Literal["PROMPT_TUNING"]
    task_type: Literal["CAUSAL_LM"] | None = None
    num_virtual_tokens: int = Field(ge=1, le=65_536)
    token_dim: int | None = Field(default=None, ge=1)
    num_transformer_submodules: Literal[1] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class PeftPrompt:
    """One soft prompt in PEFT's form.

    Attributes:
        embeddings: (L, D) float32.
        base: name of the base model, or None where the adapter does not say.
        revision: hub revision of the base model, or None.
    """

    embeddings: Tensor
    base: str | None = None
    revision: str | None = None


def write_peft(folder: Path, prompt: PeftPrompt, *, card: str) -> None:
    """Write the three files of an adapter, with the names and keys of PEFT 0.21, into the new folder `folder`."""
    length, dim = prompt.embeddings.shape
    settings: dict[str, Any] = {
        "auto_mapping": None,
        "base_model_name_or_path": prompt.base,
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": None,
        "num_layers": None,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": length,
        "peft_type": PEFT_TYPE,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "revision": prompt.revision,
        "task_type": "CAUSAL_LM",
        "token_dim": dim,
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
    embeddings = prompt.embeddings.detach().cpu().float().contiguous().clone()
    folder.mkdir()
    (folder / CONFIG_NAME).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / WEIGHTS_NAME).write_bytes(save({PEFT_KEY: embeddings}, metadata={"format": "pt"}))
    (folder / CARD_NAME).write_text(card, encoding="utf-8")


def read_peft(folder: str | Path) -> PeftPrompt:
    """Read and check a PEFT prompt-tuning adapter. Only its two named files are opened, and nothing in them can run.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.

    Raises:
        AdapterError: missing or damaged files, a pickle, another method or task, wrong shapes, or NaN.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise AdapterError(
            f"{folder}: no such folder; download a hub adapter first: `hf download owner/name --local-dir FOLDER`"
        )
    config = _read_config(path / CONFIG_NAME)
    embeddings = _read_embeddings(path / WEIGHTS_NAME)
    shape, wanted = tuple(embeddings.shape), (config.num_virtual_tokens, config.token_dim or embeddings.shape[1])
    if shape != wanted:
        raise AdapterError(f"{path / WEIGHTS_NAME}: {PEFT_KEY} has shape {shape}, {CONFIG_NAME} says {wanted}")
    return PeftPrompt(embeddings, config.base_model_name_or_path, config.revision)


def check_output(path: Path, *, peft_type: str, force: bool) -> None:
    """Refuse to write over anything but an earlier adapter of the same type, and over that unless `force` is given.

    Args:
        path: the folder to be written.
        peft_type: of the adapter to be written, as in its configuration.
        force: replace an adapter of that type.

    Raises:
        UsageError: `path` may not be replaced.
    """
    with storage_errors(path):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not path.is_dir():
            raise UsageError(f"output: {path} is a file; name a folder")
        ours = all(_is_part(file, path, peft_type) for file in path.rglob("*"))
    if not ours:
        raise UsageError(
            f"output: {path} holds files that are not a {peft_type} adapter, and is left alone; name another folder"
        )
    if not force:
        raise UsageError(f"output: {path} exists; use --force to replace it, or name another folder")


def _is_part(file: Path, root: Path, peft_type: str) -> bool:
    if file.is_dir():
        return file.parent == root and bool(_PROMPT_FOLDER.fullmatch(file.name))
    if file.name == CONFIG_NAME:
        try:
            return bool(json.loads(file.read_bytes())["peft_type"] == peft_type)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return False
    return file.name in (WEIGHTS_NAME, CARD_NAME) and (file.parent / CONFIG_NAME).is_file()


def _present(path: Path) -> Path:
    if path.is_file():
        return path
    pickles = sorted(path.parent.glob("*.bin"))
    if path.name == WEIGHTS_NAME and pickles:
        raise AdapterError(
            f"{pickles[0]}: a pickle, which can run code when it is opened, and is never read here; if you trust it, "
            "load it with PEFT and save it again: `model.save_pretrained(FOLDER, safe_serialization=True)`"
        )
    raise AdapterError(f"{path}: missing; a PEFT adapter folder holds {CONFIG_NAME} and {WEIGHTS_NAME}")


def _read_config(path: Path) -> _PeftConfig:
    if _present(path).stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no adapter configuration")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise AdapterError(f"{path}: not valid JSON ({error}); the file is damaged, get the adapter again") from error
    if not isinstance(raw, dict):
        raise AdapterError(f"{path}: must hold a JSON object")
    if raw.get("peft_type") == "SELECTIVE_PROMPT_TUNING":
        raise AdapterError(f"{path}: this is an sptune adapter already; use it as it is")
    try:
        return _PeftConfig.model_validate(raw)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            + ("" if fault["type"] == "missing" else f" (got {repr(fault['input'])[:80]})")
            for fault in error.errors()
        )
        raise AdapterError(f"{path}: only prompt tuning of causal language models can be imported; {faults}") from error


def _read_embeddings(path: Path) -> Tensor:
    """(L, D) float32, finite."""
    try:
        with safe_open(_present(path), framework="pt") as file:
            names = sorted(file.keys())
            if names != [PEFT_KEY]:
                raise AdapterError(f"{path}: must hold {PEFT_KEY} and nothing else, holds {', '.join(names)[:200]!r}")
            kind = file.get_slice(PEFT_KEY).get_dtype()
            if kind not in _FLOATS:
                raise AdapterError(f"{path}: {PEFT_KEY} is {kind}; only {', '.join(_FLOATS)} can be imported")
            embeddings: Tensor = file.get_tensor(PEFT_KEY).float()
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: not a safetensors file, or cut short ({error}); get the adapter again") from error
    if embeddings.dim() != 2:
        raise AdapterError(
            f"{path}: {PEFT_KEY} has {embeddings.dim()} dimensions, a prompt has 2; the adapter is damaged"
        )
    if not torch.isfinite(embeddings).all():
        raise AdapterError(f"{path}: {PEFT_KEY} holds values that are not finite; the adapter is damaged")
    return embeddings
