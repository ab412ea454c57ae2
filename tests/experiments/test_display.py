"""What a running comparison shows, and its tables of how far it is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from small_comparison import Shelf
from sptune.config import TuningSettings
from sptune.experiments.claim import claimed
from sptune.experiments.display import GridDisplay, TaskTimes, clock
from sptune.experiments.state import StateFile
from sptune.experiments.status import status_tables
from sptune.experiments.tasks import Task
from sptune.experiments.trials import record_trial

DONE = {"top1": ["likelihood", "ranking", "generation"], "random": ["generation"], "best-single": ["generation"]}


def end(task: Task, seconds: float, *, error: str | None = None) -> None:
    """Let a cell end after so much training."""
    task.folder.mkdir(parents=True, exist_ok=True)
    state = {"train_seconds": seconds, "evaluate_seconds": 0.0}
    (task.folder / "state.json").write_text(json.dumps(state))
    status = {"status": "failed" if error else "done", "error": error, "learning_rate": 0.05, "evaluations": DONE}
    (task.folder / "cell.json").write_text(json.dumps(status | state))
    evaluation = task.folder / "evaluation" / "top1"
    evaluation.mkdir(parents=True, exist_ok=True)
    (evaluation / "evaluation.json").write_text(json.dumps({"likelihood": {"perplexity": 12.345}}))


def shown(tasks: list[Task], *, terminal: bool = False) -> tuple[GridDisplay, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=200, highlight=False)
    return GridDisplay(tasks, jobs=2, console=console), text


def test_a_line_for_each_task(shelf: Shelf):
    _, tasks = shelf.begun({"a": {"kind": "spt"}, "b": {"kind": "spt"}}, seeds=[0, 1])
    end(tasks[0], 90)
    display, text = shown(tasks)
    with display:
        display.started(tasks[1])
        display.tick([tasks[1]], tasks[2:])
        end(tasks[1], 30, error="it burst\nat line 3")
        display.ended(tasks[1], 31.0)
        end(tasks[2], 30)
        display.ended(tasks[2], None)
        display.ended(tasks[3], 2.0)
        display.tick([], tasks[3:])
        display.tick([], tasks[3:])
        display.stopping()
    assert text.getvalue().splitlines() == [
        "b seed 0: begun",
        f"[2/4] b seed 0: failed after 0:31: it burst (see {tasks[1].folder / 'log.txt'}); about 0:45 left, and 2 tasks of unknown length",
        "[3/4] a seed 1: done by another process, perplexity 12.35; about 0:45 left, and 2 tasks of unknown length",
        "[3/4] b seed 1: stopped after 0:02; about 0:45 left, and 2 tasks of unknown length",
        f"waiting for what other processes run; see `sptune compare status {shelf.output}`",
        "stopping: what is running keeps its state; press Ctrl-C again to stop at once",
    ]


def test_bars_on_a_terminal(shelf: Shelf):
    _, tasks = shelf.begun({"a": {"kind": "spt"}}, seeds=[0, 1])
    end(tasks[0], 90)
    display, text = shown(tasks, terminal=True)
    with display:
        display.started(tasks[1])
        file = StateFile(tasks[1].folder)
        file.show("training", 3, 40)
        display.tick([tasks[1]], [])
    assert "1/2" in text.getvalue()
    assert "3/40" in text.getvalue()
    assert "training" in text.getvalue()
    assert "about 0:45 left" in text.getvalue()


def test_the_time_that_is_left(shelf: Shelf):
    _, tasks = shelf.begun({"a": {"kind": "spt"}, "b": {"kind": "spt"}}, seeds=[0, 1])
    times = TaskTimes(tasks)
    assert times.left([], tasks, spent={}, jobs=1) == (0, 4), "nothing is known yet"
    end(tasks[0], 100)
    times.add(tasks[0])
    assert times.left([], tasks[1:], spent={}, jobs=1) == (100, 2), "what another method takes says nothing"
    end(tasks[1], 20)
    times.add(tasks[1])
    assert times.left([], tasks[2:], spent={}, jobs=1) == (120, 0), "each as long as its own method did"
    assert times.left([tasks[2]], [tasks[3]], spent={tasks[2].key: 90.0}, jobs=2) == (15, 0)
    assert times.left([tasks[3]], [], spent={tasks[3].key: 90.0}, jobs=2) == (0, 0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (7384, "2:03:04")])
def test_clock(seconds: float, text: str):
    assert clock(seconds) == text


def test_the_status_of_every_cell(shelf: Shelf):
    methods: dict[str, Any] = {name: {"kind": "spt"} for name in ("done", "failed", "running", "stopped", "waiting")}
    methods["grown"] = {"kind": "spt", "decodings": ["fused"]}
    plan, tasks = shelf.begun(methods)
    end(tasks[0], 100)
    end(tasks[1], 5, error="it burst\nbadly")
    end(tasks[5], 100)
    for task in tasks[2:4]:
        task.folder.mkdir(parents=True)
        StateFile(task.folder).show("training", 3, 40)
    with claimed(tasks[2].folder):
        (table,) = status_tables(shelf.output, plan)
        owner = (tasks[2].folder / "lock").read_text().strip()
    assert table.title == "Cells, 1 of 6 done"
    rows = {row[0]: row for row in table.rows}
    assert rows["done"] == ("done", "0", "done", "0.05", "12.35", "1:40")
    assert rows["failed"][2] == "failed: it burst"
    assert rows["running"][2] == f"training 3/40 ({owner})"
    assert rows["stopped"][2] == "stopped"
    assert rows["grown"][2] == "trained; to measure: fused"
    assert rows["waiting"] == ("waiting", "0", "waiting", "", "", "")


def test_the_rates_that_were_tried(shelf: Shelf):
    rates = [0.1, 0.2, 0.3]
    plan, tasks = shelf.begun({name: {"kind": "spt", "rates": rates} for name in ("inner", "edge", "none")})
    cells = {task.cell.label: task.cell for task in tasks}
    for label, values in {"inner": [3.0, 2.0, None], "edge": [3.0, 2.0, 1.0]}.items():
        for rate, value in zip(rates, values, strict=True):
            record_trial(shelf.output, cells[label], rate=rate, tuning=TuningSettings(), perplexity=value)
    table = status_tables(shelf.output, plan)[1]
    assert table.rows == (
        ("inner", "0.1: 3.00, 0.2: 2.00, 0.3: failed", "0.2"),
        ("edge", "0.1: 3.00, 0.2: 2.00, 0.3: 1.00", "0.3, the highest tried"),
        ("none", "0.1: -, 0.2: -, 0.3: -", ""),
    )


def test_a_comparison_of_which_nothing_was_run(shelf: Shelf, tmp_path: Path):
    plan, _ = shelf.begun()
    (table,) = status_tables(tmp_path / "nowhere", plan)
    assert {row[2] for row in table.rows} == {"waiting"}
    assert not (tmp_path / "nowhere").exists(), "looking writes nothing"
