"""What stops a run: numbers that are not finite, a full disk, a folder that is none. Nothing good is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from small_run import small_trainer, talks
from sptune.adapter import load_adapter
from sptune.errors import StorageError, TrainingError
from sptune.model.load import LoadedBase
from sptune.training import checkpoint
from sptune.training.trainer import SPTTrainer


def newest(folder: Path) -> Path:
    found = checkpoint.newest_checkpoint(folder / "checkpoints")
    assert found is not None
    return found


def fail(run: SPTTrainer, *, error: type[Exception] = TrainingError) -> str:
    with pytest.raises(error) as caught:
        run.train()
    return str(caught.value)


def break_loss(run: SPTTrainer, *, at: int, value: float) -> None:
    """Let the loss of batch number `at` (from 0) be `value`."""
    objective, calls = run.objective.__call__, iter(range(10**6))

    def broken(*args: Any, **kwargs: Any) -> Any:
        parts = objective(*args, **kwargs)
        return replace(parts, total=parts.total * value) if next(calls) == at else parts

    run.objective = type("Broken", (), {"__call__": staticmethod(broken), "fuses_logits": False})()  # type: ignore[assignment]


class BreakGradient(TrainerCallback):
    """Lets a gradient be infinite in one step, by a hook on the prompts."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            model.prompts.embeddings.register_hook(lambda gradient: gradient * float("inf"))


# Numbers that are not finite.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_stops_the_run(tiny_base: LoadedBase, tmp_path: Path, value: float):
    """Batch 5 belongs to step 6; the state after step 5 is kept, though the last regular checkpoint is that of step 3."""
    run = small_trainer(tiny_base, tmp_path, epochs=2)
    seen: list[list[str]] = []
    for inputs in run.get_train_dataloader():
        seen.append([talk.id for talk in inputs["batch"].dialogues])
    break_loss(run, at=5, value=value)
    message = fail(run)
    assert "the loss of step 6 is not finite, in the batch of dialogues " in message
    assert f"the last good state is kept in {tmp_path / 'checkpoints' / 'checkpoint-5'}" in message
    assert "Lower training.prompt_lr" in message
    named = message.partition("dialogues ")[2].partition(";")[0].split(", ")
    assert named == list(dict.fromkeys(seen[5]))
    adapter = load_adapter(newest(tmp_path) / "adapter")  # refuses numbers that are not finite
    assert torch.equal(adapter.tensors["prompts"], run.spt.prompts.embeddings.detach())
    assert not (tmp_path / "adapter").exists()


def test_good_checkpoints_are_not_pushed_out_by_the_last_one(tiny_base: LoadedBase, tmp_path: Path):
    run = small_trainer(tiny_base, tmp_path, epochs=2, keep_checkpoints=1)
    break_loss(run, at=4, value=float("nan"))
    fail(run)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"checkpoint-3", "checkpoint-4"}


def test_a_gradient_that_is_not_finite_changes_no_weight(tiny_base: LoadedBase, tmp_path: Path):
    run = small_trainer(
        tiny_base, tmp_path, options={"callbacks": [BreakGradient(5)]}, gradient_accumulation=2, epochs=3
    )
    message = fail(run)
    assert "the gradient of step 5 is not finite, in the batch of dialogues talk-0-" in message
    assert newest(tmp_path).name == "checkpoint-4"
    assert torch.equal(
        load_adapter(newest(tmp_path) / "adapter").tensors["prompts"], run.spt.prompts.embeddings.detach()
    )
    assert bool(torch.isfinite(run.spt.prompts.embeddings).all())


def test_a_gradient_error_names_the_dialogues_of_every_batch_of_its_step(tiny_base: LoadedBase, tmp_path: Path):
    run = small_trainer(tiny_base, tmp_path, options={"callbacks": [BreakGradient(1)]}, gradient_accumulation=99)
    message = fail(run)
    assert all(talk.id in message for talk in talks(12))


class Spoil(TrainerCallback):
    """Makes a weight infinite after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                model.prompts.embeddings[0, 0, 0] = float("inf")


@pytest.mark.parametrize("validation", [(), talks(2, seed=1)])
@pytest.mark.parametrize("every", [1, 3])
def test_a_weight_that_is_not_finite(tiny_base: LoadedBase, tmp_path: Path, validation: Any, every: int):
    """Found by the next loss, by validation or by saving, whichever comes first."""
    run = small_trainer(
        tiny_base, tmp_path, options={"validation": validation, "callbacks": [Spoil(1)]}, checkpoint_every=every
    )
    message = fail(run)
    assert "finite" in message
    assert "there was no good state to keep yet" in message
    assert not (tmp_path / "adapter").exists()
    assert checkpoint.newest_checkpoint(tmp_path / "checkpoints") is None


def test_a_weight_that_is_not_finite_leaves_the_good_checkpoint(tiny_base: LoadedBase, tmp_path: Path):
    message = fail(small_trainer(tiny_base, tmp_path, options={"callbacks": [Spoil(4)]}, epochs=2))
    assert f"the last good state is kept in {tmp_path / 'checkpoints' / 'checkpoint-3'}" in message
    assert load_adapter(newest(tmp_path) / "adapter")


# A full disk.


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FillDisk(TrainerCallback):
    """Lets something fail from a step on."""

    def __init__(self, step: int, fill: Callable[[], None]) -> None:
        self.step, self.fill = step, fill

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            self.fill()


@pytest.mark.parametrize(
    ("target", "broken"),
    [
        ("pathlib.Path.write_bytes", full),
        ("pathlib.Path.write_text", full),
        ("sptune.files.os.fsync", full),
        ("sptune.files.os.replace", full),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before(
    tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, broken: Callable[..., None]
):
    """And once there is space again, the run goes on as if nothing had been."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        disk = FillDisk(5, lambda: patch.setattr(target, broken))
        run = small_trainer(tiny_base, folder, options={"callbacks": [disk]}, epochs=2)
        message = fail(run, error=StorageError)
    assert "cannot be written" in message
    assert "No space left on device" in message
    assert "free space" in message
    assert newest(folder).name == "checkpoint-3"
    assert not list(folder.rglob("*.partial"))
    small_trainer(tiny_base, folder, epochs=2).train(resume=True)
    small_trainer(tiny_base, tmp_path / "straight", epochs=2).train()
    resumed, straight = (path / "adapter" / "adapter_model.safetensors" for path in (folder, tmp_path / "straight"))
    assert resumed.read_bytes() == straight.read_bytes()


def test_a_full_disk_while_logging(tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk = FillDisk(5, lambda: monkeypatch.setattr("sptune.training.metrics_log.json.dumps", full))
    message = fail(small_trainer(tiny_base, tmp_path, options={"callbacks": [disk]}, epochs=2), error=StorageError)
    assert "metrics.jsonl: cannot be written" in message
    assert newest(tmp_path).name == "checkpoint-3"


def test_a_full_disk_while_writing_tensorboard(tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torch.utils.tensorboard import SummaryWriter

    disk = FillDisk(5, lambda: monkeypatch.setattr(SummaryWriter, "add_scalar", full))
    run = small_trainer(tiny_base, tmp_path, options={"callbacks": [disk]}, epochs=2, report_to=("tensorboard",))
    assert "tensorboard: cannot be written (No space left on device)" in fail(run, error=StorageError)


# A folder that is none.


def test_the_run_folder_is_a_file(tiny_base: LoadedBase, tmp_path: Path):
    (tmp_path / "run").write_text("my notes")
    with pytest.raises(StorageError, match=r"run: cannot be written \(Not a directory\)"):
        small_trainer(tiny_base, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "my notes"


def test_a_folder_that_may_not_be_written(tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr("os.makedirs", refused)
        with pytest.raises(StorageError, match=r"run: cannot be written \(Permission denied\)"):
            small_trainer(tiny_base, tmp_path / "run")
    run = small_trainer(tiny_base, tmp_path / "run")
    monkeypatch.setattr(Path, "mkdir", refused)
    assert "cannot be written (Permission denied)" in fail(run, error=StorageError)
