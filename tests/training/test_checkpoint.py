"""Checkpoints: everything is kept, in JSON and safetensors, and a damaged one is never taken for a good one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sptune.errors import AdapterError, TrainingError
from sptune.model.spt import SPTModel
from sptune.training import checkpoint

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "sgd with momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
}


class Run:
    """A model with an optimizer and a scheduler that have done some steps on a made-up loss."""

    def __init__(self, model: SPTModel, make: Callable[[Any], torch.optim.Optimizer], steps: int = 3) -> None:
        self.model = model
        self.optimizer = make([{"params": [model.prompts.embeddings]}, {"params": list(model.retriever.parameters())}])
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, [lambda n: 1 / (n + 1), lambda _: 1.0])
        for step in range(steps):
            self.step(step)

    def step(self, number: int) -> None:
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                draw = torch.Generator().manual_seed(number)
                parameter.grad = torch.randn(parameter.shape, generator=draw)
        self.optimizer.step()
        self.scheduler.step()

    def write(self, folder: Path, *, ended: bool = False) -> Path:
        state = {"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": ended}}}}
        checkpoint.write_checkpoint(
            folder,
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            trainer_state=json.dumps(state),
            data="a digest",
            sums={"batches": 1},
        )
        return folder

    def load(self, folder: Path) -> None:
        checkpoint.load_weights(folder, self.model)
        checkpoint.load_optimizer(folder, optimizer=self.optimizer, scheduler=self.scheduler)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}


@pytest.fixture
def make_run(tiny_model: Callable[..., SPTModel]) -> Callable[..., Run]:
    return lambda kind="adamw", steps=3: Run(tiny_model(), OPTIMIZERS[kind], steps)


@pytest.fixture
def three(make_run: Callable[..., Run], tmp_path: Path) -> Path:
    """A folder of checkpoints 5, 9 and 10."""
    run = make_run()
    for step in (5, 9, 10):
        run.write(tmp_path / f"checkpoint-{step}")
    return tmp_path


# What is kept.


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_if_it_had_not_stopped(make_run: Callable[..., Run], tmp_path: Path, kind: str):
    straight = make_run(kind)
    folder = straight.write(tmp_path / "checkpoint-3")
    resumed = make_run(kind, steps=0)
    resumed.load(folder)
    for step in range(3, 6):
        straight.step(step)
        resumed.step(step)
    ours, theirs = resumed.weights(), straight.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resumed.scheduler.get_last_lr() == straight.scheduler.get_last_lr()


def test_splitting_and_joining_a_state_changes_nothing(make_run: Callable[..., Run]):
    state = make_run().optimizer.state_dict()
    tensors, plain = checkpoint.split_state(state)
    joined = checkpoint.join_state(tensors, json.loads(json.dumps(plain)))
    assert joined["state"].keys() == state["state"].keys()
    for parameter, values in state["state"].items():
        assert joined["state"][parameter].keys() == values.keys()
        assert all(torch.equal(joined["state"][parameter][key], value) for key, value in values.items())
    for ours, theirs in zip(joined["param_groups"], state["param_groups"], strict=True):
        assert ours == {key: list(value) if isinstance(value, tuple) else value for key, value in theirs.items()}


def test_a_checkpoint_is_json_and_safetensors(make_run: Callable[..., Run], tmp_path: Path):
    folder = make_run().write(tmp_path / "checkpoint-3")
    for file in folder.rglob("*"):
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".safetensors":
            assert load_file(file)
        else:
            assert file.is_dir() or file.name == "README.md"
    sizes = json.loads((folder / "manifest.json").read_text())
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert sizes.keys() == files - {"manifest.json"}


def test_the_last_checkpoint_of_a_run_is_known(make_run: Callable[..., Run], tmp_path: Path):
    run = make_run()
    assert checkpoint.is_last(run.write(tmp_path / "a", ended=True))
    assert not checkpoint.is_last(run.write(tmp_path / "b"))


# Which one is taken.


def test_newest_is_by_number_not_by_name(three: Path):
    newest = checkpoint.newest_checkpoint(three)
    assert newest == three / "checkpoint-10"
    assert checkpoint.step_of(newest) == 10


def test_nothing_there_is_none(tmp_path: Path):
    assert checkpoint.newest_checkpoint(tmp_path) is None
    assert checkpoint.newest_checkpoint(tmp_path / "missing") is None
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / ".checkpoint-7.abc.partial").mkdir()
    assert checkpoint.newest_checkpoint(tmp_path) is None


FILES = (
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "adapter/README.md",
    "optimizer.safetensors",
    "optimizer.json",
    "trainer_state.json",
    "manifest.json",
)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def blank(file: Path) -> None:
    """As some file systems leave a file after a power cut: of the right size, all zeros."""
    file.write_bytes(bytes(file.stat().st_size))


CASES = [(file, damage) for file in FILES for damage in (truncate, Path.unlink, blank)]
CASES.remove(("adapter/README.md", blank))  # nobody reads the model card when resuming


@pytest.mark.parametrize(("file", "damage"), CASES)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    three: Path, caplog: pytest.LogCaptureFixture, file: str, damage: Callable[[Path], None]
):
    damage(three / "checkpoint-10" / file)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_checkpoint(three) == three / "checkpoint-9"
    assert "checkpoint-10 is not complete" in caplog.text


def test_all_damaged_is_none(three: Path):
    for folder in three.iterdir():
        truncate(folder / "optimizer.safetensors")
    assert checkpoint.newest_checkpoint(three) is None


def test_damage_that_comes_while_resuming_is_a_message(make_run: Callable[..., Run], three: Path):
    run = make_run()
    truncate(three / "checkpoint-10" / "optimizer.safetensors")
    truncate(three / "checkpoint-10" / "adapter" / "adapter_model.safetensors")
    with pytest.raises(
        TrainingError, match=r"checkpoint-10: the optimizer's state cannot be read .*delete this folder"
    ):
        checkpoint.load_optimizer(three / "checkpoint-10", optimizer=run.optimizer, scheduler=run.scheduler)
    with pytest.raises(AdapterError, match="cut short"):
        checkpoint.load_weights(three / "checkpoint-10", run.model)


def test_weights_of_another_shape_are_refused(three: Path, tiny_model: Callable[..., SPTModel]):
    with pytest.raises(AdapterError, match="shape"):
        checkpoint.load_weights(three / "checkpoint-10", tiny_model(count=2))


# Which ones stay.


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (1, None, {10}),
        (2, None, {9, 10}),
        (3, 5, {5, 9, 10}),
        (1, 5, {5, 10}),
        (2, 5, {5, 9, 10}),
        (1, 10, {10}),
        (9, None, {5, 9, 10}),
    ],
)
def test_the_newest_and_the_best_are_kept(three: Path, keep: int, best: int | None, left: set[int]):
    checkpoint.remove_old(three, keep=keep, best=best)
    assert {checkpoint.step_of(path) for path in three.iterdir()} == left


def test_what_a_killed_writer_left_is_removed_and_nothing_else(three: Path):
    (three / ".checkpoint-11.0a1b2c3d.partial" / "adapter").mkdir(parents=True)
    (three / ".checkpoint-11.0a1b2c3d.partial" / "adapter" / "x").write_text("half")
    (three / ".recipe.yaml.0a1b2c3d.partial").write_text("half")
    (three / ".hidden").write_text("mine")
    checkpoint.remove_partial(three)
    assert {path.name for path in three.iterdir()} == {"checkpoint-5", "checkpoint-9", "checkpoint-10", ".hidden"}
    checkpoint.remove_partial(three / "missing")
