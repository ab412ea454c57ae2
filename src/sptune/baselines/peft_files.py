"""PEFT models, made around a copy of a base model and kept in PEFT's own format: safetensors and JSON."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from sptune.errors import AdapterError, UsageError
from sptune.extras import how_to_get
from sptune.files import write_atomically
from sptune.model.load import HUB_IDS
from sptune.model.seeding import seeded

if TYPE_CHECKING:
    from sptune.model.backbone import Backbone


def peft_package() -> ModuleType:
    """PEFT.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise UsageError(
            f"kind: LoRA, prefix tuning and P-tuning need the package peft; {how_to_get('compare')}"
        ) from error
    module: ModuleType = peft
    return module


def make_peft(backbone: Backbone, config: Any) -> Any:
    """PEFT's `PeftModel` around the model of `backbone`, in which what `config` asks for is new and trainable.

    Raises:
        ValueError: PEFT's own, where `config` does not fit the model.
    """
    with _quiet_peft():
        peft = peft_package().get_peft_model(backbone.model, config)
    base = backbone.base.rpartition("+")[0] or backbone.base
    peft.peft_config["default"].base_model_name_or_path = HUB_IDS.get(base, base)  # for others, not this machine's path
    return peft


def save_peft(peft: Any, folder: Path) -> None:
    """Write a PEFT model's adapter, whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    # without the embeddings, which no method trains: deciding for itself, PEFT would ask the hub
    write_atomically(folder, lambda partial: peft.save_pretrained(str(partial), save_embedding_layers=False))


def load_peft(backbone: Backbone, folder: Path) -> Any:
    """Put a saved PEFT adapter, frozen, into the model of `backbone`; returns PEFT's `PeftModel` around it.

    Raises:
        AdapterError: the folder is missing, damaged or of another model.
    """
    if not folder.is_dir():
        raise AdapterError(f"{folder}: no such folder; fit the method again")
    try:
        with seeded(0), _quiet_peft():  # new layers are drawn before they are filled
            return peft_package().PeftModel.from_pretrained(backbone.model, str(folder)).eval()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise AdapterError(f"{folder}: cannot be loaded ({reason}); fit the method again") from error


@contextmanager
def _quiet_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out")  # PEFT sets it itself for GPT-2's layers
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT asks by an older name
        yield
