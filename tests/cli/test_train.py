"""`sptune train` from end to end on a tiny base model: the run folder, bad input, and runs that are killed and resumed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from small_run import run_cli, save_base, talks, write_talks
from sptune.adapter import CONFIG_NAME, load_adapter
from sptune.config import load_recipe
from sptune.data.dialogue import Turn
from sptune.errors import EXIT_CODES, DataError, ModelError, RecipeError, StorageError, TrainingError, UsageError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from sptune.report.run_info import load_run_info, save_run_info
from sptune.training.metrics_log import read_metrics
from tiny import EOS, PAD, byte_level_tokenizer, tiny_llama

# One thread: the runs are compared bit for bit, and many of them start.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

RECIPE = {
    "name": "bees",
    "model": {"dtype": "float32"},
    "data": {"train": "1:24", "validation": "25:28"},
    "template": {"max_length": 200, "reserve": 20},
    "prompts": {"count": 3, "length": 4},
    "losses": {"update": "responsibility", "selection": {"teacher_noise": 0.3}},
    "training": {
        "epochs": 2,
        "gradient_accumulation": 2,
        "batch_tokens": 100,
        "checkpoint_every": 3,
        "log_every": 2,
        "prompt_lr": 0.05,
    },
}


class Place:
    """A folder with a base model, dialogues and a recipe."""

    def __init__(self, folder: Path, base: LoadedBase) -> None:
        self.folder = folder
        self.base = save_base(base, folder / "base")
        self.data = write_talks(folder / "talks.jsonl", talks(28))
        self.recipe = folder / "recipe.yaml"
        recipe = {**RECIPE, "model": {**RECIPE["model"], "base": str(self.base)}}
        recipe["data"] = {**RECIPE["data"], "path": str(self.data)}
        self.recipe.write_text(yaml.safe_dump(recipe))

    def arguments(self, run: Path, *more: object) -> list[object]:
        return ["train", self.recipe, f"output={run}", "--no-evaluate", *more]

    def start(self, run: Path, *more: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sptune.cli.main", *map(str, self.arguments(run, *more))]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def place(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"), tiny_base)


@pytest.fixture
def sptune(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    return lambda *arguments: run_cli(monkeypatch, *arguments)


@pytest.fixture(scope="module")
def straight(place: Place) -> Path:
    """The run folder of a run that nobody disturbed."""
    run = place.folder / "straight"
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, *place.arguments(run)) == 0
    return run


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def steps(run: Path) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in read_metrics(run / "metrics.jsonl")]


# A run.


def test_the_run_folder(straight: Path, place: Place):
    assert {path.name for path in straight.iterdir()} == {
        "adapter",
        "checkpoints",
        "metrics.jsonl",
        "recipe.yaml",
        "run.json",
        "tensorboard",
    }
    saved = load_recipe(straight / "recipe.yaml")
    assert saved == load_recipe(place.recipe, [f"output={straight}"])
    model = SPTModel.from_pretrained(straight / "adapter", base=str(place.base), dtype="float32")
    assert (model.prompts.count, model.prompts.length) == (3, 4)
    assert model.generate([talks(1, seed=3)[0].context(0)])
    assert {kind for kind, _ in steps(straight)} == {"train", "validation"}


def test_a_resumed_run_keeps_its_command_and_adds_up_its_time(place: Place, tmp_path: Path, sptune: Callable[..., int]):
    run = tmp_path / "run"
    assert sptune(*place.arguments(run, "training.max_steps=2")) == 0
    first = load_run_info(run)
    assert "training.max_steps=2" in first.command
    save_run_info(run, replace(first, seconds=1000.0))
    assert sptune("train", run / "recipe.yaml", "--resume", "--no-evaluate") == 0
    again = load_run_info(run)
    assert (again.command, again.started) == (first.command, first.started)
    assert 1000 <= again.seconds < 1000 + 60


def test_what_is_said(place: Place, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    """Everything on standard error; what goes in, how it goes, and what to do next."""
    assert sptune(*place.arguments(tmp_path / "run", "training.max_steps=2")) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "frozen, float32 on cpu), K=3 prompts of L=4, " in captured.err
    assert "dialogues: 24 training, 4 validation, 0 test" in captured.err
    assert "step 2/2 loss " in captured.err
    assert "tokens/s ETA 0:00" in captured.err
    assert "validation at step 2: perplexity " in captured.err
    assert f"adapter: {tmp_path / 'run' / 'adapter'}" in captured.err
    assert f"sptune chat {tmp_path / 'run' / 'adapter'} --persona-text" in captured.err


def test_the_default_folder_is_by_name(
    place: Place, tmp_path: Path, sptune: Callable[..., int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert sptune("train", place.recipe, "training.max_steps=1", "--no-evaluate") == 0
    assert load_adapter(tmp_path / "runs" / "bees" / "adapter")


def test_the_same_recipe_gives_the_same_adapter(
    place: Place, straight: Path, tmp_path: Path, sptune: Callable[..., int]
):
    """From the saved recipe alone, which names everything."""
    assert sptune("train", straight / "recipe.yaml", f"output={tmp_path / 'run'}", "--no-evaluate") == 0
    assert weights(tmp_path / "run") == weights(straight)
    assert sptune(*place.arguments(tmp_path / "other", "seed=1")) == 0
    assert weights(tmp_path / "other") != weights(straight)


@pytest.mark.parametrize(
    ("decoding", "options"),
    [
        ("top1", ""),
        ("fused", ""),
        ("gated", ""),
        ("rerank", " --candidates 16"),
    ],
)
def test_it_ends_with_a_chat_in_which_the_same_speak(
    place: Place,
    tmp_path: Path,
    sptune: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    decoding: str,
    options: str,
):
    assert sptune(*place.arguments(tmp_path / "run", "training.max_steps=1", f"evaluation.decoding={decoding}")) == 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"talk to it: sptune chat {tmp_path / 'run' / 'adapter'} --persona-text")
    assert last.endswith(f'"I live by the sea."{options}')
    kind = json.loads((tmp_path / "run" / "adapter" / CONFIG_NAME).read_text())["decoding"]["kind"]
    assert kind == ("top1" if decoding == "rerank" else decoding), "the adapter says who speaks"


def test_a_whole_run_is_evaluated_and_reported(
    place: Place, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    """The adapter and the bare model, on dialogues that neither training nor validation saw."""
    run = tmp_path / "run"
    changes = ["data.train=1:20", "data.validation=21:24", "evaluation.split=25:28", "evaluation.max_new_tokens=3"]
    command = ["train", place.recipe, f"output={run}", "training.max_steps=2", *changes]
    assert sptune(*command) == 0
    err = capsys.readouterr().err
    assert "evaluating the adapter on 4 dialogues" in err
    assert "evaluating the bare model on 4 dialogues" in err
    assert f"report: {run / 'report.html'}" in err
    turns = sum(len(talk.turns) for talk in talks(28)[24:])
    for name in ("spt", "base"):
        result = json.loads((run / "evaluation" / name / "evaluation.json").read_text())
        assert result["likelihood"]["turns"] == turns
    assert (run / "report.md").stat().st_size > 0
    assert (run / "report.html").stat().st_size > 0
    assert list((run / "plots").glob("*.png"))
    (run / "report.md").unlink()
    assert sptune(*command, "--resume") == 0, "an ended run is evaluated and reported again"
    assert (run / "report.md").exists()


def test_check_trains_nothing_and_leaves_no_folder(
    place: Place, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    before = sorted(place.folder.iterdir())
    assert sptune("train", place.recipe, "--check", f"output={tmp_path / 'run'}", "template.max_length=80") == 0
    out = capsys.readouterr().out
    assert "training: 24 dialogues, " in out
    assert "validation: 4 dialogues, " in out
    assert "turns lose old history at template.max_length=80, 0 do not fit" in out
    assert out.endswith("the recipe is good\n")
    assert not (tmp_path / "run").exists()
    assert sorted(place.folder.iterdir()) == before


def test_check_refuses_turns_that_do_not_fit(place: Place, tmp_path: Path, sptune: Callable[..., int], capsys):
    talk = talks(1)[0]
    long = write_talks(tmp_path / "long.jsonl", [replace(talk, turns=(Turn("hi", "boats " * 1500),))])
    code = sptune("train", place.recipe, "--check", f"data.path={long}", "data.train=null", "data.validation=null")
    assert code != 0
    assert "training: 1 turns do not fit the base model's window" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("output=DATA", "is a file, not a run folder"),
        ("training.report_to=[wandbb]", "training.report_to: wandbb is not installed"),
        ("losses.contrastive={similarity: encoder, encoder: /no/enc}", "losses.contrastive.encoder: /no/enc"),
        (
            "evaluation={split: 25:28, bertscore_model: /no/b}",
            "evaluation.bertscore_model: BERTScore encoder: cannot load",
        ),
        ("retriever.keys=clusters & prompts.count=99", "fewer than the 99 clusters of retriever.keys=clusters"),
        ("retriever.whiten=32 & data.train=1:1", "fewer than 32"),
        ("evaluation={split: 25:28, max_new_tokens: 1000}", "max_new_tokens: prompt, context and 1000 new tokens need"),
    ],
)
def test_check_refuses_what_training_would(
    place: Place, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str], change: str, wanted: str
):
    changes = change.replace("DATA", str(place.data)).split(" & ")
    assert sptune("train", place.recipe, "--check", "data.train=1:20", "data.validation=null", *changes) != 0
    printed = capsys.readouterr()
    assert wanted in printed.err
    assert "the recipe is good" not in printed.out


@pytest.mark.parametrize("key", ["data.validation_path", "evaluation.path"])
def test_dialogues_that_cannot_be_measured_are_told_before_training(
    place: Place, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str], key: str
):
    file = write_talks(tmp_path / "long.jsonl", [replace(talks(1)[0], turns=(Turn("hi", "boats " * 1500),))])
    run = tmp_path / "run"
    command = ["train", place.recipe, f"output={run}", f"{key}={file}", "data.validation=null"]
    assert sptune(*command) == EXIT_CODES[DataError]
    assert "but the base model's window is" in capsys.readouterr().err
    assert not run.exists()


def test_an_encoder_that_cannot_be_loaded_is_told_before_training(
    place: Place, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    changes = ["data.train=1:20", "data.validation=null", "evaluation={split: 25:28, bertscore_model: /no/b}"]
    assert sptune("train", place.recipe, f"output={run}", *changes) == EXIT_CODES[ModelError]
    assert "evaluation.bertscore_model: BERTScore encoder: cannot load '/no/b'" in capsys.readouterr().err
    assert not run.exists()


# The run folder, again.


def test_a_folder_in_use_is_refused_before_anything_is_loaded(
    place: Place, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert sptune(*place.arguments(tmp_path, "model.base=/nowhere")) == EXIT_CODES[StorageError]
    err = capsys.readouterr().err
    assert err.startswith(f"sptune: {tmp_path}: the run folder is in use; go on with --resume, ")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_force_replaces_the_run_and_nothing_else(place: Place, tmp_path: Path, sptune: Callable[..., int]):
    run = tmp_path / "run"
    assert sptune(*place.arguments(run, "training.max_steps=1")) == 0
    (run / "notes.txt").write_text("mine")
    (run / "evaluation").mkdir()
    (run / "evaluation" / "old.json").write_text("{}")
    assert sptune(*place.arguments(run, "training.max_steps=2", "seed=1", "--force")) == 0
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "evaluation").exists()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"checkpoint-2"}
    assert {step for _, step in steps(run)} == {2}
    assert load_recipe(run / "recipe.yaml").seed == 1


def test_force_deletes_nothing_for_a_run_that_cannot_begin(
    place: Place, straight: Path, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    before = weights(straight)
    for bad in ("model.base=/nowhere", "data.path=/nowhere", "data.train=1:99", "training.report_to=[nosuchthing]"):
        assert sptune(*place.arguments(straight, "--force", bad)) != 0
        assert weights(straight) == before
    assert steps(straight)
    capsys.readouterr()


def test_output_is_a_file(place: Place, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    (tmp_path / "run").write_text("mine")
    for more in ([], ["--force"], ["--resume"]):
        assert sptune(*place.arguments(tmp_path / "run", *more)) == EXIT_CODES[StorageError]
        assert "run: is a file, not a run folder; choose another with output=FOLDER" in capsys.readouterr().err
    assert (tmp_path / "run").read_text() == "mine"


# Bad input. Each: one message, its exit code, no run folder.


@pytest.mark.parametrize(
    ("changes", "kind", "wanted"),
    [
        (["data.path=/no/such/file.txt"], DataError, "data.path: /no/such/file.txt: no such file"),
        (
            ["data.path=valid_self_original.txt"],
            DataError,
            "data.path: valid_self_original.txt: no such file; check the path, or get it: ConvAI2",
        ),
        (
            ["data.validation_path=/no/such.txt"],
            DataError,
            "data.validation_path: /no/such.txt: no such file; check the path\n",
        ),
        (["evaluation.path=/no/such.txt"], DataError, "evaluation.path: /no/such.txt: no such file"),
        (["data.train=1:99"], DataError, "data.train='1:99' goes past the end"),
        (["data.validation=25:99"], DataError, "data.validation='25:99' goes past the end"),
        (["evaluation.split=25:99"], DataError, "evaluation.split='25:99' goes past the end"),
        (["data.validation=24:28"], DataError, "data.validation: 1 of its dialogues are also trained on"),
        (["evaluation.split=20:28"], DataError, "evaluation.split: 5 of its dialogues are also trained on"),
        (["data.path=hub:no/such"], DataError, "no/such"),
        (["model.base=/no/such/model"], ModelError, "model.base: /no/such/model is no folder"),
        (["model.base=no/such-model"], ModelError, "model.base: no/such-model cannot be loaded"),
        (["model.base=DATA"], ModelError, "model.base: "),
        (["model.base=FOLDER"], ModelError, "is a folder without config.json"),
        (["model.device=cuda:7"], ModelError, "model.device: 'cuda:7' is not available here"),
        (["template.max_length=2000"], RecipeError, "template.max_length: 2000 exceeds the window"),
        (["prompts.count=0"], RecipeError, "prompts.count: "),
        (["prompts.length=99999"], RecipeError, "prompts.length: "),
        (["prompts.length=190"], RecipeError, "template.max_length: 200 leaves"),
        (["trainin.epochs=2", "seed=x"], RecipeError, "trainin: unknown key; did you mean training?"),
        (["training.epochs"], RecipeError, "an override has the form key=value"),
        (["prompts.init=file", "prompts.file=/no/adapter"], None, "prompts.file: /no/adapter: no such adapter folder"),
        (["template.kind=jinja", "template.file=/no/t.jinja"], RecipeError, "template.file: cannot read /no/t.jinja"),
        (
            ["losses.contrastive={similarity: encoder, encoder: /no/enc}"],
            ModelError,
            "losses.contrastive.encoder: /no/enc",
        ),
        (["training.report_to=[wandbb]"], RecipeError, "training.report_to: wandbb is not installed"),
        (["--resume"], UsageError, "holds no run (no recipe.yaml); leave --resume out"),
        (["--resume", "--force"], UsageError, "give one of them"),
    ],
)
def test_bad_input(
    place: Place,
    tmp_path: Path,
    sptune: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    changes: list[str],
    kind: type[Exception] | None,
    wanted: str,
):
    changes = [change.replace("DATA", str(place.data)).replace("FOLDER", str(tmp_path)) for change in changes]
    code = sptune(*place.arguments(tmp_path / "run", *changes))
    err = capfd.readouterr().err
    messages = [line for line in err.splitlines() if line.startswith("sptune: ")]
    assert len(messages) == 1, err
    assert wanted in err
    assert "Traceback" not in err
    assert code == (EXIT_CODES[kind] if kind else 6)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_an_unknown_recipe(sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    assert sptune("train", "quikstart") == EXIT_CODES[RecipeError]
    assert capsys.readouterr().err == "sptune: quikstart: no such recipe file; did you mean quickstart?\n"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "is empty"),
        (b"\x00\x01" * 100, "is binary"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"\xff\xfehello", "UTF-16"),
        (b"hello world\n", "format cannot be told"),
        (b'{"messages": [{"role": "user", "content": "hi"}', "bad.txt:1: "),
    ],
)
def test_files_that_hold_no_dialogues(
    place: Place,
    tmp_path: Path,
    sptune: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    wanted: str,
):
    (tmp_path / "bad.txt").write_bytes(content)
    changes = [f"data.path={tmp_path / 'bad.txt'}", "data.train=null", "data.validation=null"]
    assert sptune(*place.arguments(tmp_path / "run", *changes)) == EXIT_CODES[DataError]
    err = capsys.readouterr().err
    assert err.startswith("sptune: ")
    assert wanted in err


def test_faulty_dialogues_stop_or_are_skipped(
    place: Place, tmp_path: Path, sptune: Callable[..., int], caplog: pytest.LogCaptureFixture, capsys
):
    """The faults are named with file and line; skipping says what it skipped, and trains on the rest."""
    file = tmp_path / "talks.jsonl"
    lines = place.data.read_text().splitlines()
    lines[2] = '{"id": "broken", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]}'
    file.write_text("\n".join(lines) + "\n")
    changes = [f"data.path={file}", "data.train=1:23", "data.validation=24:27", "training.max_steps=1"]
    assert sptune(*place.arguments(tmp_path / "run", *changes)) == EXIT_CODES[DataError]
    err = capsys.readouterr().err
    assert f"{file}:3" in err
    assert "data.on_error=skip" in err
    assert sptune(*place.arguments(tmp_path / "run", *changes, "data.on_error=skip")) == 0
    assert "23 training, 4 validation" in capsys.readouterr().err
    assert "1 dialogue with errors left out" in caplog.text


def test_a_base_without_chat_template_or_eos(tmp_path: Path, sptune: Callable[..., int], capsys):
    tokenizer = byte_level_tokenizer(special=(EOS, PAD))
    place = Place(tmp_path, LoadedBase(Backbone(tiny_llama(len(tokenizer)), base="bare"), tokenizer))
    assert sptune(*place.arguments(tmp_path / "run", "template.kind=chat")) == EXIT_CODES[ModelError]
    assert "template.kind=chat: this base model has no chat template" in capsys.readouterr().err
    assert sptune(*place.arguments(tmp_path / "run")) == EXIT_CODES[ModelError]
    assert "no end-of-sequence token" in capsys.readouterr().err
    without = ["template.learn_stop=false", "training.max_steps=1"]
    assert sptune(*place.arguments(tmp_path / "run", *without)) == 0, "it can be trained without a stop"


def test_more_virtual_tokens_than_words(place: Place, tmp_path: Path, sptune: Callable[..., int]):
    """K x L = 640 rows of a vocabulary of 420: drawn with replacement, the prompts differ."""
    changes = ["prompts.count=16", "prompts.length=40", "training.max_steps=1"]
    assert sptune(*place.arguments(tmp_path / "run", *changes)) == 0
    prompts = load_adapter(tmp_path / "run" / "adapter").tensors["prompts"]
    assert len({tuple(prompt.flatten().tolist()) for prompt in prompts}) == 16


def test_training_that_stops_has_its_exit_code(
    place: Place, tmp_path: Path, sptune: Callable[..., int], capsys, monkeypatch
):
    from sptune.training.objective import Objective

    original = Objective.__call__

    def broken(self: Objective, *args: object, **kwargs: float) -> object:
        parts = original(self, *args, **kwargs)  # type: ignore[arg-type]
        return replace(parts, total=parts.total * float("nan")) if kwargs["step"] == 9 else parts

    monkeypatch.setattr(Objective, "__call__", broken)
    assert sptune(*place.arguments(tmp_path / "run")) == EXIT_CODES[TrainingError]
    err = capsys.readouterr().err
    assert "sptune: the loss of step 5 is not finite, in the batch of dialogues talk-0-" in err
    assert f"the last good state is kept in {tmp_path / 'run' / 'checkpoints' / 'checkpoint-4'}" in err
    assert load_adapter(tmp_path / "run" / "checkpoints" / "checkpoint-4" / "adapter")


# Resuming.


def test_resume_with_another_recipe_names_what_differs(
    place: Place, straight: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    before = weights(straight)
    changes = ["--resume", "training.prompt_lr=0.1", "losses.update=all"]
    assert sptune(*place.arguments(straight, *changes)) == EXIT_CODES[UsageError]
    err = capsys.readouterr().err
    assert "training.prompt_lr was 0.05, is 0.1" in err
    assert "losses.update was 'responsibility', is 'all'" in err
    assert "seed" not in err
    assert weights(straight) == before


def test_resume_may_evaluate_in_another_way(
    place: Place, tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert sptune(*place.arguments(run, "training.max_steps=1", "evaluation.bertscore_model=nope")) == 0
    again = ["train", run / "recipe.yaml", "--resume", "--no-evaluate"]
    assert sptune(*again, "evaluation.bertscore_model=null", "evaluation.max_new_tokens=4") == 0
    kept = load_recipe(run / "recipe.yaml").evaluation
    assert (kept.bertscore_model, kept.max_new_tokens) == (None, 4)
    capsys.readouterr()
    assert sptune(*again, "evaluation.decoding=fused") == EXIT_CODES[UsageError], "the adapter keeps it"
    assert "evaluation.decoding was 'top1', is 'fused'" in capsys.readouterr().err


def test_resuming_a_run_that_has_ended_changes_nothing(
    place: Place, straight: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    before, metrics = weights(straight), (straight / "metrics.jsonl").read_bytes()
    assert sptune(*place.arguments(straight, "--resume")) == 0
    assert sptune("train", straight / "recipe.yaml", "--resume", "--no-evaluate") == 0
    assert weights(straight) == before
    assert (straight / "metrics.jsonl").read_bytes() == metrics
    assert "step " not in capsys.readouterr().err


def kill(process: subprocess.Popen[str]) -> str:
    """kill -9; what the process had said."""
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    return err


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait until `condition` holds; False when the process ended first."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.0002)
    return False


def is_writing(run: Path, new: int) -> bool:
    """Whether a checkpoint is being written, after `new` metrics lines."""
    try:
        writing = any(name.endswith(".partial") for name in os.listdir(run / "checkpoints"))
        return writing and len(steps(run)) >= new
    except OSError:
        return False


def has_lines(run: Path, count: int) -> bool:
    return (run / "metrics.jsonl").exists() and len(steps(run)) >= count


def run_until(place: Place, run: Path, moment: Callable[[], bool]) -> bool:
    """Begin the run, or go on with it, and kill it at that moment; False when it ended first."""
    process = place.start(run, *(["--resume"] if (run / "recipe.yaml").exists() else []))
    if wait_for(moment, process):
        kill(process)
        return True
    _, err = process.communicate()
    assert process.returncode == 0, err
    return False


def finish(place: Place, run: Path) -> None:
    process = place.start(run, "--resume")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err


def assert_same_run(run: Path, straight: Path) -> None:
    assert weights(run) == weights(straight)
    assert steps(run) == steps(straight)
    assert not list(run.rglob("*.partial"))
    last = f"checkpoints/checkpoint-{steps(straight)[-1][1]}"
    assert weights(run / last) == weights(straight / last)
    assert (run / last / "optimizer.safetensors").read_bytes() == (
        straight / last / "optimizer.safetensors"
    ).read_bytes()


@pytest.mark.timeout(600)
def test_kill_9_and_resume_is_exact(place: Place, straight: Path, tmp_path: Path):
    """Killed in a step, and while a checkpoint is being written."""
    run = tmp_path / "run"
    assert run_until(place, run, lambda: has_lines(run, 4))
    assert run_until(place, run, lambda: is_writing(run, 6))
    assert not (run / "adapter").exists()
    finish(place, run)
    assert_same_run(run, straight)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_many_moments_is_exact(place: Place, straight: Path, tmp_path: Path, seed: int):
    """Before the first checkpoint, in steps, in validation, in the middle of writing: wherever the clock falls."""
    run = tmp_path / "run"
    draw = random.Random(seed)

    def later() -> Callable[[], bool]:
        lines, wait, writing = draw.randint(0, 3), draw.uniform(0, 0.15), draw.random() < 0.5
        since: list[float] = []
        begun = len(steps(run)) if (run / "metrics.jsonl").exists() else 0

        def moment() -> bool:
            if writing:
                return is_writing(run, begun + lines)
            if not has_lines(run, lines) or not (run / "recipe.yaml").exists():
                return False
            since.append(time.monotonic())
            return since[-1] - since[0] >= wait

        return moment

    assert sum(run_until(place, run, later()) for _ in range(5)) >= 2
    finish(place, run)
    assert_same_run(run, straight)


@pytest.mark.timeout(600)
def test_ctrl_c_keeps_the_state_and_says_how_to_go_on(
    place: Place, straight: Path, tmp_path: Path, sptune: Callable[..., int]
):
    run = tmp_path / "run"
    process = place.start(run)
    assert wait_for(lambda: has_lines(run, 2), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert f"Go on with: sptune train {run / 'recipe.yaml'} --resume" in err
    assert "Traceback" not in err
    state = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    assert json.loads((state / "trainer_state.json").read_text())["global_step"] >= 2
    assert sptune("train", run / "recipe.yaml", "--resume", "--no-evaluate") == 0
    assert weights(run) == weights(straight)
    assert [entry for entry in steps(run) if entry[0] == "validation"] == [
        entry for entry in steps(straight) if entry[0] == "validation"
    ]
