"""`sptune compare` from end to end on a tiny base model: what is refused at once, a grid that is killed and goes on, a method that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from small_comparison import METHODS, Shelf
from small_run import run_cli
from sptune.cli.compare_task import attempt, do_task
from sptune.errors import EXIT_CODES, DataError, ModelError, RecipeError, StorageError, UsageError
from sptune.experiments.tasks import list_tasks
from sptune.model.load import LoadedBase

# One thread: runs are compared bit for bit.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
PT = {"pt": METHODS["pt"]}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def sptune(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    keep = signal.getsignal(signal.SIGTERM)
    yield lambda *arguments: run_cli(monkeypatch, *arguments)  # type: ignore[misc]
    signal.signal(signal.SIGTERM, keep)


def refused(sptune: Callable[..., int], error: type[Exception], *arguments: object) -> bool:
    return sptune("compare", *arguments) == EXIT_CODES[error]  # type: ignore[index]


# Nothing is begun before all is known to be good.


def test_a_dry_run_lists_the_cells_and_leaves_no_folder(
    shelf: Shelf, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    path = shelf.file({**METHODS, "k": {"kind": "spt", "grid": {"prompts.count": [2, 4]}}}, seeds=[0, 1])
    assert sptune("compare", path, "--dry-run", "--only", "k,pt", "--seeds", "1") == 0
    out = capsys.readouterr().out
    assert "3 cells, 0 trials before them" in out
    assert "| k@prompts.count=4 | 1 | spt | waiting |" in out
    assert "| spt |" not in out.replace("| spt | waiting", "")
    assert sptune("compare", path, "--dry-run", "--only", "k@prompts.count=4") == 0
    assert "2 cells" in (out := capsys.readouterr().out)
    assert "k@prompts.count=2" not in out
    assert not shelf.output.exists()


def test_a_setting_of_two_keys_can_be_asked_for(
    shelf: Shelf, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    """Its name has a comma, which parts names elsewhere."""
    grid = {"prompts.count": [2, 4], "prompts.length": [2, 4]}
    path = shelf.file({**METHODS, "k": {"kind": "spt", "grid": grid}})
    assert sptune("compare", path, "--dry-run", "--only", "k@prompts.count=4,prompts.length=2", "--only", "pt,spt") == 0
    assert ": 3 cells" in capsys.readouterr().out


def test_test_dialogues_that_choose_are_told(
    shelf: Shelf, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert sptune("compare", shelf.file(), "--dry-run", "evaluation.split=15:20") == 0
    assert "2 of the 6 test dialogues also choose" in capsys.readouterr().err


def test_bad_grid_keys_are_refused_at_once(
    shelf: Shelf, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    path = shelf.file({"k": {"kind": "spt", "grid": {"prompts.cuont": [2], "losses.update": ["al"]}}})
    assert refused(sptune, RecipeError, path)
    err = capsys.readouterr().err
    assert f"{path}: 2 mistakes" in err
    assert "methods.k: prompts.cuont: unknown key; did you mean prompts.count?" in err
    assert "methods.k: losses.update: Input should be 'all' or 'responsibility' (got 'al')" in err
    assert not shelf.output.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["data.path=nowhere.txt"], DataError, "nowhere.txt"),
        (["data.train=1:999"], DataError, "999"),
        (["data.validation=10:16"], DataError, "data.validation: 3 of its dialogues are also trained on"),
        (["--only", "pd"], UsageError, "--only: 'pd' is not in this comparison; it has pt, spt"),
        (["--seeds", "4"], UsageError, "--seeds: '4' is not in this comparison; it has 0"),
        (["sed=1"], RecipeError, "sed: unknown key; did you mean seeds?"),
        (["methods.pt.kind=dream"], RecipeError, "methods.pt.kind"),
        (
            ["evaluation.bertscore_model=nope"],
            ModelError,
            "evaluation.bertscore_model: BERTScore encoder: cannot load 'nope'",
        ),
        (
            ["evaluation.bertscore_model=/no/x"],
            ModelError,
            "evaluation.bertscore_model: BERTScore encoder: cannot load",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_begun(
    shelf: Shelf,
    sptune: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: type[Exception],
    message: str,
):
    assert refused(sptune, error, shelf.file(), *arguments)
    assert message in capsys.readouterr().err
    assert not shelf.output.exists()


def test_a_folder_of_another_comparison_is_refused(
    shelf: Shelf, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    shelf.begun()
    before = {path: path.read_bytes() for path in shelf.output.iterdir()}
    assert refused(sptune, UsageError, shelf.file(), "training.epochs=3", "--dry-run")
    assert "pt: training.epochs was 1.0, is 3.0" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in shelf.output.iterdir()} == before
    (shelf.folder / "full").mkdir()
    (shelf.folder / "full" / "x").touch()
    assert refused(sptune, StorageError, shelf.file(), f"output={shelf.folder / 'full'}")


def test_training_recipes_and_comparisons_are_told_apart(
    shelf: Shelf, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert refused(sptune, RecipeError, "quickstart")
    assert "to train this recipe: `sptune train quickstart`" in capsys.readouterr().err
    assert sptune("train", shelf.file()) == EXIT_CODES[RecipeError]
    assert "run it with `sptune compare" in capsys.readouterr().err


def test_status_and_report_want_a_comparisons_folder(
    tmp_path: Path, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert refused(sptune, UsageError, "status", tmp_path)
    assert "holds no comparison" in capsys.readouterr().err
    assert sptune("compare", "report", tmp_path) != 0


def test_status(shelf: Shelf, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    shelf.begun({"pt": {**METHODS["pt"], "rates": [0.1, 0.2]}})
    assert sptune("compare", "status", shelf.output) == 0
    out = capsys.readouterr().out
    assert "Cells, 0 of 1 done" in out
    assert "| pt | 0.1: -, 0.2: - |" in out


def test_help_names_the_commands(sptune: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    assert sptune("compare", "--help") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("run", "report", "status", "Examples:"))
    assert " task " not in out


def test_the_process_that_starts_the_others_is_small():
    """It lives as long as the grid, beside processes that need the memory."""
    heavy = ("torch", "transformers", "numpy", "sklearn")
    code = (
        "import sys; sys.argv = ['sptune', 'compare', 'compare/quick', '--dry-run']; from sptune.cli.main import main\n"
        f"try: main()\nfinally: print('loaded:', [name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "loaded: []" in found.stdout
    assert "4 cells, 6 trials before them" in found.stdout


def test_ctrl_c_says_how_to_go_on(
    shelf: Shelf, sptune: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sptune.cli.compare._run", press)
    path = shelf.file()
    assert sptune("compare", path, "--only", "pt", "seeds=[0, 1]") == 130
    assert f"Go on with: sptune compare {path} --only pt 'seeds=[0, 1]'\n" in capsys.readouterr().err


# Grids in processes of their own.


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sptune.cli.main", "compare", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    """Wait until something is there; the process must not end before."""
    begin = time.monotonic()
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - begin < seconds
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_a_killed_grid_goes_on_in_the_middle_of_a_training(tiny_base: LoadedBase, tmp_path: Path):
    """Killed with -9, and its process with it; what it then trains is bit for bit what nobody disturbed."""
    (tmp_path / "a").mkdir()
    shelf = Shelf(tmp_path / "a", tiny_base)
    long = {"training.epochs": 10, "training.checkpoint_every": 5}
    path = shelf.file(PT, set=long)
    run = shelf.output / "cells" / "pt" / "seed-0" / "run"
    grid = start(path)
    wait_for(lambda: list((run / "checkpoints").glob("checkpoint-*")), grid)
    grid.kill()
    grid.communicate()
    lock = run.parent / "lock"
    worker = int(lock.read_text().split()[1])
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the process of a cell must not outlive its grid"
        time.sleep(0.02)
    assert not (run / "adapter").exists(), "killed too late to tell anything"
    assert not (run.parent / "cell.json").exists()

    again = start(path, "--no-report")
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert "[1/1] pt seed 0: done" in err
    assert json.loads((run.parent / "state.json").read_text())["starts"] == 2

    (tmp_path / "b").mkdir()
    other = Shelf(tmp_path / "b", tiny_base)
    plan, (task,) = other.begun(PT, set=long)
    do_task(task, plan)
    weights = "run/adapter/adapter_model.safetensors"
    assert (run.parent / weights).read_bytes() == (task.folder / weights).read_bytes()


def test_what_fails_is_recorded_in_one_message_and_in_full_in_the_log(
    tiny_base: LoadedBase, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    shelf = Shelf(tmp_path, tiny_base)
    missing = {"kind": "spt", "set": {"prompts.init": "file", "prompts.file": "nowhere"}}
    plan, (mistaken, burst) = shelf.begun({"mistaken": missing, "burst": METHODS["pt"]})
    with pytest.raises(typer.Exit):
        attempt(mistaken, plan)
    record = json.loads((mistaken.folder / "cell.json").read_text())
    assert record["status"] == "failed"
    assert "nowhere" in record["error"]
    assert "Traceback" not in record["error"] + capsys.readouterr().err, "a user's own mistake needs none"

    monkeypatch.setattr("sptune.run_data.load_data", lambda recipe: 1 // 0)
    with pytest.raises(typer.Exit):
        attempt(burst, plan)
    first, *rest = json.loads((burst.folder / "cell.json").read_text())["error"].split("\n")
    assert first == "ZeroDivisionError: integer division or modulo by zero"
    assert 0 < len(rest) < 12
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.undo()
    attempt(burst, plan)
    assert [task.outcome() for task in (mistaken, burst)] == ["failed", "done"]


def test_replies_that_the_window_has_no_room_for_are_refused_before_training(tiny_base: LoadedBase, tmp_path: Path):
    plan, (pt,) = Shelf(tmp_path, tiny_base).begun(PT, set={"evaluation.max_new_tokens": 1000})
    with pytest.raises(typer.Exit):
        attempt(pt, plan)
    assert "max_new_tokens" in json.loads((pt.folder / "cell.json").read_text())["error"]
    assert not (pt.folder / "run").exists(), "nothing was trained"


def test_a_part_that_was_asked_for_has_its_report(
    tiny_base: LoadedBase,
    tmp_path: Path,
    sptune: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """As soon as all of the part is done, whatever else the comparison has."""
    shelf = Shelf(tmp_path, tiny_base)
    plan, (pt, _) = shelf.begun()
    do_task(pt, plan)
    monkeypatch.setattr("sptune.cli.compare._run", lambda *_, **__: None)
    assert sptune("compare", shelf.file(), "--only", "spt") == 0
    assert not (shelf.output / "report.md").exists()
    assert sptune("compare", shelf.file(), "--only", "pt") == 0
    told = capsys.readouterr()
    assert "1 of 2 cells done" in told.err
    assert "report.html" in told.out
    assert "spt" in (shelf.output / "report.md").read_text()


@pytest.mark.slow
def test_a_method_that_fails_is_told_and_the_others_are_done(tiny_base: LoadedBase, tmp_path: Path):
    """And the report is made of what there is."""
    shelf = Shelf(tmp_path, tiny_base)
    methods = {"bad": {"kind": "spt", "set": {"prompts.init": "file", "prompts.file": "nowhere"}}, **PT}
    path = shelf.file(methods, reference="pt")
    grid = start(path, "--jobs", "2")
    out, err = grid.communicate(timeout=200)
    assert grid.returncode == 1
    assert "bad seed 0: failed" in err
    assert "1 of 2 cells done" in err
    assert "try again with --retry-failed" in err
    bad = json.loads((shelf.output / "cells" / "bad" / "seed-0" / "cell.json").read_text())
    assert bad["status"] == "failed"
    assert "nowhere" in bad["error"]
    assert "Traceback" not in bad["error"]
    assert (shelf.output / "report.md").exists()
    assert "report.html" in out
    settings = yaml.safe_load((shelf.output / "compare.yaml").read_text())
    assert settings["reference"] == "pt"
    assert [task.outcome() for task in list_tasks(shelf.output, shelf.begun(methods, reference="pt")[0])] == [
        "failed",
        "done",
    ]
