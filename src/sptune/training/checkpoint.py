"""Training checkpoints: an adapter, the optimizer's state and the trainer's, in safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from transformers.trainer_callback import ExportableState

from sptune.adapter import load_adapter
from sptune.errors import AdapterError, TrainingError

if TYPE_CHECKING:
    from sptune.model.spt import SPTModel

PREFIX = "checkpoint-"
ADAPTER = "adapter"
WEIGHTS = "weights.safetensors"
TENSORS = "optimizer.safetensors"
STATE = "optimizer.json"
TRAINER_STATE = "trainer_state.json"
MANIFEST = "manifest.json"
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
)  # what reading a damaged file raises

_log = logging.getLogger(__name__)


def write_checkpoint(
    folder: Path,
    *,
    model: SPTModel,
    optimizer: Any,
    scheduler: Any,
    trainer_state: str,
    data: str,
    sums: Mapping[str, Any],
) -> None:
    """Write everything that resuming needs into a new folder, `data`, a digest of what is trained on, and the `sums` since the last line of the log.

    Call it through `sptune.files.write_atomically`.

    There is no state of random generators to keep: the order of batches depends on (seed, epoch), the teacher's noise on (seed, step), and a
    frozen model has no dropout.
    """
    folder.mkdir()
    model.save_pretrained(folder / ADAPTER)
    if weights := further_weights(model):
        save_file(
            weights, folder / WEIGHTS
        )  # of a whole model, where all of it is trained: not by way of bytes in memory
    tensors, plain = split_state(optimizer.state_dict())
    (folder / TENSORS).write_bytes(save(tensors))
    state = {"optimizer": plain, "scheduler": scheduler.state_dict(), "data": data, "sums": sums}
    (folder / STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
    (folder / TRAINER_STATE).write_text(trainer_state, encoding="utf-8")
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
    (folder / MANIFEST).write_text(json.dumps(sizes, indent=2), encoding="utf-8")


def state_text(state: Any, callbacks: Iterable[Any]) -> str:
    """The trainer's state as JSON, with that of every callback that has one to keep."""
    kept = [callback for callback in callbacks if isinstance(callback, ExportableState)]
    state.stateful_callbacks = {type(callback).__name__: callback.state() for callback in kept}
    return json.dumps(asdict(state), indent=2)


def split_state(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimizer's `state_dict` as tensors by name (`parameter.key`) and JSON for the rest."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for parameter, values in state["state"].items():
        plain[str(parameter)] = {}
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{parameter}.{key}"] = value.detach().cpu().contiguous().clone()
            else:
                plain[str(parameter)][key] = value
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def join_state(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    """The `state_dict` that `split_state` took apart."""
    state = {int(parameter): dict(values) for parameter, values in plain["state"].items()}
    for name, tensor in tensors.items():
        parameter, key = name.split(".", 1)
        state[int(parameter)][key] = tensor
    return {"state": state, "param_groups": plain["param_groups"]}


def load_weights(folder: Path, model: SPTModel) -> None:
    """Put a checkpoint's weights into `model`.

    Raises:
        AdapterError: the checkpoint's adapter is damaged or of another shape.
        TrainingError: further weights are missing, damaged, or of another method.
    """
    model.load_tensors(load_adapter(folder / ADAPTER))
    own = further_weights(model)
    try:
        saved = load_file(folder / WEIGHTS) if own or (folder / WEIGHTS).exists() else {}
        for name in own.keys() | saved.keys():
            own[name].copy_(saved[name])
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise TrainingError(f"{folder / WEIGHTS}: cannot be read ({error}); delete the run and train again") from error


def further_weights(model: SPTModel) -> dict[str, torch.Tensor]:
    """What is trained and no adapter holds, by name: a network that makes the prompts, parts of the base; the model's own storage."""
    adapter = {"prompts.embeddings", *(f"retriever.{name}" for name, _ in model.retriever.named_parameters())}
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and name not in adapter}


def load_optimizer(folder: Path, *, optimizer: Any, scheduler: Any) -> None:
    """Put a checkpoint's optimizer and scheduler state back.

    Raises:
        TrainingError: the files are damaged.
    """
    try:
        state = _read_state(folder)
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    except DAMAGE as error:
        raise TrainingError(
            f"{folder}: the optimizer's state cannot be read ({error}); delete this folder and resume again"
        ) from error


def load_sums(folder: Path) -> dict[str, Any]:
    """The sums since the last line of the log; empty where the checkpoint, an older one, has none."""
    found: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8")).get("sums", {})
    return found


def check_data(folder: Path, data: str) -> None:
    """Refuse to go on from a checkpoint on other data; one that does not say on which it was trained, an older one, is taken.

    Raises:
        TrainingError: its digest is not `data`.
    """
    if json.loads((folder / STATE).read_text(encoding="utf-8")).get("data", data) != data:
        raise TrainingError(
            f"{folder}: was trained on other data: the dialogues, the template's file or the tokenizer are no longer what they were; "
            "put them back, or train in another folder"
        )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is complete, or None."""
    for path in _newest_first(folder):
        if _is_complete(path):
            return path
        _log.warning("%s is not complete, so the checkpoint before it is used", path)
    return None


def step_of(path: Path) -> int:
    """The number of steps after which a checkpoint was written."""
    return int(path.name.removeprefix(PREFIX))


def is_last(folder: Path) -> bool:
    """Whether training had ended when this checkpoint was written."""
    state = json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))
    return bool(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"])


def remove_old(folder: Path, *, keep: int, best: int | None) -> None:
    """Delete all checkpoints but the newest `keep` and that of step `best`."""
    for path in _newest_first(folder)[keep:]:
        if step_of(path) != best:
            shutil.rmtree(path, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Delete what an interrupted writer left in `folder`."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    numbered = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(numbered, key=step_of, reverse=True)


def _read_state(folder: Path) -> dict[str, Any]:
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return {"optimizer": join_state(load_file(folder / TENSORS), state["optimizer"]), "scheduler": state["scheduler"]}


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return False
        load_adapter(folder / ADAPTER)
        _read_state(folder)
        is_last(folder)
    except (*DAMAGE, AdapterError):
        return False
    return True
