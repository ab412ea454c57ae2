"""A run that was stopped and resumed is, bit for bit, a run that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from small_run import small_trainer, talks
from sptune.adapter import load_adapter
from sptune.data.dialogue import Dialogue
from sptune.errors import TrainingError
from sptune.model.encoded_prompts import EncodedPrompts, PromptEncoder
from sptune.model.load import LoadedBase
from sptune.model.prompts import SoftPrompts
from sptune.training import checkpoint
from sptune.training.metrics_log import read_metrics
from sptune.training.step_sums import PARTS
from sptune.training.trainer import SPTTrainer
from tiny import JINJA_TEMPLATE, tiny_spt

# Everything that a resumed run could get wrong: noise by step, annealing by progress, accumulation over an odd number of batches an
# epoch, a scheduler with warm-up, the optimizer's moments.
LOSSES = {"update": "responsibility", "selection": {"teacher_noise": 0.3}}
VARIANTS: dict[str, dict[str, Any]] = {
    "two epochs": {"epochs": 2, "gradient_accumulation": 2},
    "a part of an epoch": {"epochs": 1.4, "checkpoint_every": 2},
    "steps": {"max_steps": 7, "optimizer": "sgd", "gradient_accumulation": 3},
    "adafactor": {"epochs": 2, "gradient_accumulation": 2, "optimizer": "adafactor", "scheduler": "cosine"},
}


class Crash(TrainerCallback):
    """Dies after a step, before it is logged or saved."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.after:
            raise RuntimeError("the power is gone")


class Press(TrainerCallback):
    """Presses Ctrl-C in the middle of a step, once or more often."""

    def __init__(self, step: int, times: int = 1) -> None:
        self.step, self.times = step, times

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            for _n in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def make(
    base: LoadedBase, folder: Path, *callbacks: TrainerCallback, validate: bool = True, **training: Any
) -> SPTTrainer:
    options = {"validation": talks(2, seed=1) if validate else (), "callbacks": callbacks}
    settings = {"batch_tokens": 150, "warmup": 0.2, **training}
    return small_trainer(base, folder, train=talks(13), losses=LOSSES, options=options, **settings)


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def steps(run: SPTTrainer) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in read_metrics(run.metrics.path)]


def summed(run: SPTTrainer) -> list[dict[str, Any]]:
    """What the lines of the log have of all batches since the line before."""
    lines = [record for record in read_metrics(run.metrics.path) if record["kind"] == "train"]
    return [{name: line[name] for name in ("total", *PARTS, "tokens", "examples")} for line in lines]


@pytest.fixture(scope="module")
def straight(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SPTTrainer]:
    """An uninterrupted run of the settings given; one for all tests that ask for the same."""
    done: dict[str, SPTTrainer] = {}

    def run(**training: Any) -> SPTTrainer:
        key = repr(sorted(training.items()))
        if key not in done:
            done[key] = make(tiny_base, tmp_path_factory.mktemp("straight"), **training)
            done[key].train()
        return done[key]

    return run


def crash(base: LoadedBase, folder: Path, after: int, **training: Any) -> None:
    with pytest.raises(RuntimeError, match="the power is gone"):
        make(base, folder, Crash(after), **training).train()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_resuming_is_exact(
    tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer], variant: str, share: float
):
    settings = VARIANTS[variant]
    reference = straight(**settings)
    after = max(1, round(share * reference.state.max_steps))
    crash(tiny_base, tmp_path, after, **settings)
    assert not (tmp_path / "adapter").exists()
    run = make(tiny_base, tmp_path, **settings)
    run.train(resume=True)
    assert weights(tmp_path) == weights(reference.folder)
    assert steps(run) == steps(reference)
    assert summed(run) == summed(reference)
    assert run.state.best_metric == reference.state.best_metric
    last = f"checkpoints/checkpoint-{reference.state.max_steps}"
    assert weights(tmp_path / last) == weights(reference.folder / last), "the last state too, not only the best"


def test_an_epoch_does_not_divide_into_steps(straight: Callable[..., SPTTrainer]):
    """Or the tests above would not see a wrong count of batches."""
    assert len(straight(**VARIANTS["two epochs"]).get_train_dataloader()) % 2 == 1
    assert len(straight(**VARIANTS["steps"]).get_train_dataloader()) % 3 != 0


def test_noise_matters_here(tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer]):
    """Another seed gives another adapter, so equal adapters mean equal noise."""
    run = make(tiny_base, tmp_path, **VARIANTS["two epochs"])
    run.objective._seed = 1
    run.train()
    assert weights(tmp_path) != weights(straight(**VARIANTS["two epochs"]).folder)


@pytest.mark.parametrize("encoder", ["separate", "shared"])
def test_with_a_network_that_makes_the_prompts(tiny_base: LoadedBase, tmp_path: Path, encoder: PromptEncoder):
    """It is kept in checkpoints, not in the adapter, and goes on where it was."""

    def encoded(folder: Path, *callbacks: TrainerCallback) -> SPTTrainer:
        model = tiny_spt(tiny_base)
        model.prompts = EncodedPrompts(count=3, length=4, dim=model.backbone.embedding_dim, encoder=encoder)
        options = {"validation": talks(2, seed=1), "callbacks": callbacks}
        return small_trainer(model, folder, train=talks(13), options=options, max_steps=7, prompt_lr=1e-2)

    encoded(straight := tmp_path / "straight").train()
    with pytest.raises(RuntimeError, match="the power is gone"):
        encoded(stopped := tmp_path / "stopped", Crash(5)).train()
    run = encoded(stopped)
    run.train(resume=True)
    assert weights(stopped) == weights(straight)
    last = "checkpoints/checkpoint-7"
    assert weights(stopped / last) == weights(straight / last)
    kept = load_adapter(stopped / "adapter").tensors
    assert set(kept) == set(load_adapter(stopped / last / "adapter").tensors)
    assert type(run.spt.prompts) is SoftPrompts
    assert torch.equal(kept["prompts"], run.spt.prompts.embeddings)
    (finished := encoded(stopped)).train(resume=True)
    assert torch.equal(finished.spt.prompts.embeddings, run.spt.prompts.embeddings), "of a run that had ended"
    run.train(resume=True)
    assert torch.equal(finished.spt.prompts.embeddings, run.spt.prompts.embeddings), "by the trainer that trained it"
    assert type(run.spt.prompts) is SoftPrompts
    (stopped / last / checkpoint.WEIGHTS).unlink()
    with pytest.raises(TrainingError, match=r"weights\.safetensors: cannot be read .* delete the run"):
        checkpoint.load_weights(stopped / last, encoded(tmp_path / "third").spt)


def test_resuming_again_and_again(tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer]):
    settings = VARIANTS["two epochs"]
    crash(tiny_base, tmp_path, 4, **settings)
    for after in (5, 7):
        with pytest.raises(RuntimeError, match="the power is gone"):
            make(tiny_base, tmp_path, Crash(after), **settings).train(resume=True)
    run = make(tiny_base, tmp_path, **settings)
    run.train(resume=True)
    assert weights(tmp_path) == weights(straight(**settings).folder)
    assert steps(run) == steps(straight(**settings))


def test_without_validation_too(tiny_base: LoadedBase, tmp_path: Path):
    make(tiny_base, tmp_path / "straight", validate=False, max_steps=5).train()
    crash(tiny_base, tmp_path / "stopped", 4, validate=False, max_steps=5)
    make(tiny_base, tmp_path / "stopped", validate=False, max_steps=5).train(resume=True)
    assert weights(tmp_path / "straight") == weights(tmp_path / "stopped")


@pytest.mark.parametrize("file", ["adapter/adapter_model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_a_truncated_checkpoint_is_passed_over(
    tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer], file: str
):
    settings = VARIANTS["two epochs"]
    crash(tiny_base, tmp_path, 7, **settings)
    newest = tmp_path / "checkpoints" / "checkpoint-6"
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(content[: len(content) // 2])
    assert checkpoint.newest_checkpoint(newest.parent) == newest.parent / "checkpoint-3"
    run = make(tiny_base, tmp_path, **settings)
    run.train(resume=True)
    assert weights(tmp_path) == weights(straight(**settings).folder)
    assert steps(run) == steps(straight(**settings))


def test_without_a_checkpoint_it_begins_at_the_beginning(
    tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer]
):
    settings = VARIANTS["two epochs"]
    crash(tiny_base, tmp_path, 2, **settings)
    assert not list((tmp_path / "checkpoints").iterdir())
    run = make(tiny_base, tmp_path, **settings)
    run.train(resume=True)
    assert weights(tmp_path) == weights(straight(**settings).folder)
    assert steps(run) == steps(straight(**settings))


def test_in_an_empty_folder_it_begins_too(tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer]):
    make(tiny_base, tmp_path, **VARIANTS["two epochs"]).train(resume=True)
    assert weights(tmp_path) == weights(straight(**VARIANTS["two epochs"]).folder)


def test_what_a_killed_writer_left_is_cleared(tiny_base: LoadedBase, tmp_path: Path):
    (tmp_path / "checkpoints" / ".checkpoint-3.12345678.partial").mkdir(parents=True)
    (tmp_path / ".adapter.12345678.partial").mkdir()
    make(tiny_base, tmp_path, max_steps=3).train(resume=True)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_has_ended_stays_as_it_is(
    tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer], variant: str
):
    """Not a step more, even where the last one stands in the middle of an epoch; a lost adapter comes back."""
    reference = straight(**VARIANTS[variant])
    shutil.copytree(reference.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")
    run = make(tiny_base, tmp_path / "run", Crash(reference.state.max_steps + 1), **VARIANTS[variant])
    assert run.train(resume=True).global_step == reference.state.max_steps
    assert weights(tmp_path / "run") == weights(reference.folder)
    assert steps(run) == steps(reference)


def test_the_same_trainer_can_go_on(tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer]):
    """As in a notebook, after an error in the middle of a step: the number of its batches does not count twice."""
    settings = VARIANTS["two epochs"]
    run = make(tiny_base, tmp_path, **settings)
    objective = run.objective
    calls = iter(range(100))

    class Stumble:
        fuses_logits = False

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            parts = objective(*args, **kwargs)
            if next(calls) == 7:
                raise RuntimeError("out of memory")
            return parts

    run.objective = Stumble()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="out of memory"):
        run.train()
    run.objective = objective
    run.train(resume=True)
    assert weights(tmp_path) == weights(straight(**settings).folder)


# Other data.


def without_the_first_response(dialogues: list[Dialogue]) -> list[Dialogue]:
    """The same tokens, of which one response is only history."""
    first, *rest = dialogues
    return [replace(first, turns=(replace(first.turns[0], learn=False), *first.turns[1:])), *rest]


CHANGES: dict[str, dict[str, Any]] = {
    "training": {"train": talks(13, seed=5)},
    "what is learned": {"train": without_the_first_response(talks(13, turns=2))},
    "validation": {"options": {"validation": talks(2, seed=9)}},
    "template": {},
}


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_other_data_is_refused(tiny_base: LoadedBase, tmp_path: Path, change: str, ended: bool):
    model = tiny_spt(tiny_base)
    given: dict[str, Any] = {"train": talks(13, turns=2), "options": {"validation": talks(2, seed=1)}, "max_steps": 6}
    if ended:
        small_trainer(model, tmp_path, **given).train()
    else:
        options = {**given["options"], "callbacks": [Crash(5)]}
        with pytest.raises(RuntimeError, match="the power is gone"):
            small_trainer(model, tmp_path, **{**given, "options": options}).train()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = tiny_spt(tiny_base, "jinja", source=JINJA_TEMPLATE) if change == "template" else tiny_spt(tiny_base)
    run = small_trainer(other, tmp_path, **{**given, **CHANGES[change]})
    with pytest.raises(TrainingError, match=r"checkpoint-\d: was trained on other data: .*put them back, or train in"):
        run.train(resume=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_checkpoint_that_does_not_say_on_what_it_was_trained_is_taken(
    tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer]
):
    settings = VARIANTS["two epochs"]
    crash(tiny_base, tmp_path, 4, **settings)
    newest = checkpoint.newest_checkpoint(tmp_path / "checkpoints")
    assert newest
    state = json.loads((newest / checkpoint.STATE).read_text())
    assert len(state.pop("data")) == 64
    text = json.dumps(state)
    sizes = json.loads((newest / checkpoint.MANIFEST).read_text()) | {checkpoint.STATE: len(text)}
    (newest / checkpoint.STATE).write_text(text)
    (newest / checkpoint.MANIFEST).write_text(json.dumps(sizes))
    make(tiny_base, tmp_path, **settings).train(resume=True)
    assert weights(tmp_path) == weights(straight(**settings).folder)


# Ctrl-C.


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
def test_ctrl_c_keeps_the_state_after_a_whole_step(
    tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer], step: int
):
    settings = VARIANTS["two epochs"]
    with pytest.raises(KeyboardInterrupt):
        make(tiny_base, tmp_path, Press(step), **settings).train()
    assert checkpoint.newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / f"checkpoint-{step}"
    assert not (tmp_path / "adapter").exists()
    run = make(tiny_base, tmp_path, **settings)
    run.train(resume=True)
    assert weights(tmp_path) == weights(straight(**settings).folder)
    records = [entry for entry in steps(run) if entry[0] == "validation"]
    assert records == [entry for entry in steps(straight(**settings)) if entry[0] == "validation"]


def test_ctrl_c_twice_stops_at_once_at_the_newest_checkpoint(
    tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer]
):
    settings = VARIANTS["two epochs"]
    with pytest.raises(KeyboardInterrupt):
        make(tiny_base, tmp_path, Press(5, times=2), **settings).train()
    assert checkpoint.newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "checkpoint-3"
    make(tiny_base, tmp_path, **settings).train(resume=True)
    assert weights(tmp_path) == weights(straight(**settings).folder)


def test_ctrl_c_in_the_last_step_loses_nothing(
    tiny_base: LoadedBase, tmp_path: Path, straight: Callable[..., SPTTrainer]
):
    settings = VARIANTS["two epochs"]
    reference = straight(**settings)
    with pytest.raises(KeyboardInterrupt):
        make(tiny_base, tmp_path, Press(reference.state.max_steps), **settings).train()
    assert weights(tmp_path) == weights(reference.folder)
    assert load_adapter(tmp_path / "adapter")
