"""Running a grid: order, jobs, crashes, Ctrl-C, and several grids on one folder. Its processes are those of `light_task.py`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from small_comparison import Shelf
from sptune.config import TuningSettings
from sptune.experiments import grid as grids
from sptune.experiments.grid import Grid, threads
from sptune.experiments.tasks import Task
from sptune.experiments.trials import record_trial

LIGHT = Path(__file__).with_name("light_task.py")


ALONE = """
import sys
from pathlib import Path
from sptune.config import TuningSettings
from sptune.experiments import grid
from sptune.experiments.display import GridDisplay
from sptune.experiments.plan import read_plan
from sptune.experiments.tasks import list_tasks
light, folder = sys.argv[1], Path(sys.argv[2])
grid.command_of = lambda task, retry: [sys.executable, light, *task.arguments]
tasks = list_tasks(folder, read_plan(folder))
grid.Grid(tasks, tuning=TuningSettings(), jobs=2, display=GridDisplay(tasks, jobs=2)).run()
"""


@pytest.fixture(autouse=True)
def _light_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    def light(task: Task, *, retry: bool) -> list[str]:
        return [sys.executable, str(LIGHT), *task.arguments, *(["--retry"] if retry else [])]

    monkeypatch.setattr(grids, "command_of", light)
    monkeypatch.setattr(grids, "INTERVAL", 0.02)


class Recorder:
    """A display that remembers, and may interrupt."""

    def __init__(self, interrupt: Path | None = None) -> None:
        self.ends: list[tuple[str, str | None, bool]] = []
        self.stopped = False
        self._interrupt = interrupt

    def started(self, task: Task) -> None:
        pass

    def ended(self, task: Task, seconds: float | None) -> None:
        self.ends.append((task.name, task.outcome(), seconds is not None))

    def tick(self, running: Sequence[Task], waiting: Sequence[Task]) -> None:
        if self._interrupt and self._interrupt.exists():
            raise KeyboardInterrupt

    def stopping(self) -> None:
        self.stopped = True


def spt(**more: Any) -> dict[str, Any]:
    return {"kind": "spt", **more}


def run(tasks: Sequence[Task], *, jobs: int = 1, display: Recorder | None = None, **options: Any) -> Recorder:
    display = display or Recorder()
    Grid(tasks, tuning=TuningSettings(), jobs=jobs, display=display, **options).run()
    return display


def events(shelf: Shelf) -> list[tuple[str, str, float, str]]:
    path = shelf.folder / "events.jsonl"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def begun(shelf: Shelf) -> list[str]:
    return [name for event, name, *_ in events(shelf) if event == "begin"]


def record(shelf: Shelf, label: str, seed: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shelf.output / "cells" / label / f"seed-{seed}" / "cell.json").read_text())
    return found


def test_trials_come_before_the_cells_that_need_them_and_nothing_is_done_twice(shelf: Shelf):
    _, tasks = shelf.begun({"a": spt(rates=[1, 2]), "b": spt(rates=[3, 4])}, seeds=[0, 1])
    assert len(tasks) == 8
    run(tasks)
    assert begun(shelf) == ["a 1", "a 2", "a 0", "b 3", "b 4", "b 0", "a 1", "b 1"], "the last two are of seed 1"
    assert all(task.outcome() == "done" for task in tasks)
    run(tasks)
    assert len(begun(shelf)) == 8


def test_a_cell_waits_for_its_trials_however_many_run_at_once(shelf: Shelf):
    _, tasks = shelf.begun({"a": spt(rates=[1, 2]), "b": spt()}, tuning={"unequal": True})
    run(tasks, jobs=4)
    when = {(event, name): moment for event, name, moment, _ in events(shelf)}
    assert when["begin", "a 0"] > max(when["end", "a 1"], when["end", "a 2"])
    assert when["begin", "b 0"] < when["begin", "a 0"], "another is not held up"


def test_so_many_at_once_and_the_cores_are_shared_out(shelf: Shelf, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    _, tasks = shelf.begun({"a": spt(), "b": spt()}, seeds=[0, 1, 2])
    run(tasks, jobs=3)
    running = most = 0
    for event, *_ in sorted(events(shelf), key=lambda one: one[2]):
        running += 1 if event == "begin" else -1
        most = max(most, running)
    assert 2 <= most <= 3
    assert {given for *_, given in events(shelf)} == {"2"}


@pytest.mark.parametrize(("given", "jobs", "each"), [("8", 3, 2), ("1", 4, 1), ("6", 1, 6)])
def test_threads(monkeypatch: pytest.MonkeyPatch, given: str, jobs: int, each: int):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads(jobs) == each
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads(10_000) == 1


def test_what_fails_and_what_crashes_is_recorded_and_the_rest_goes_on(shelf: Shelf):
    _, tasks = shelf.begun({"killed": spt(), "fails": spt(), "broken": spt(), "good": spt()})
    display = run(tasks, jobs=2)
    outcomes = {task.cell.label: task.outcome() for task in tasks}
    assert outcomes == {"killed": "failed", "fails": "failed", "broken": "failed", "good": "done"}
    killed = record(shelf, "killed")
    assert killed["error"] == "the process was ended by SIGKILL, perhaps for want of memory\nalmost done"
    assert (killed["method"], killed["seed"], killed["trainable_parameters"]) == ("killed", 0, None)
    assert record(shelf, "broken")["error"] == "the process broke down (exit code 3)\nalmost done"
    assert record(shelf, "fails")["error"] == "it fails\nalways"
    assert len(display.ends) == 4
    assert len(begun(shelf)) == 4
    run(tasks)
    assert len(begun(shelf)) == 4, "what failed is left alone"


def test_failed_ones_are_tried_again_when_asked_for(shelf: Shelf):
    _, tasks = shelf.begun({"fails": spt(), "good": spt()})
    run(tasks)
    run(tasks, retry=True)
    assert begun(shelf) == ["fails 0", "good 0", "fails 0"], "once"


def test_a_cell_runs_when_all_its_trials_have_ended_even_in_failure(shelf: Shelf):
    """It then says itself why it cannot train."""
    _, tasks = shelf.begun({"fails": spt(rates=[1, 2])})
    run(tasks)
    assert begun(shelf) == ["fails 1", "fails 2", "fails 0"]
    run(tasks, retry=True)
    assert sorted(begun(shelf)[3:5]) == ["fails 1", "fails 2"]


def test_a_cell_waits_for_a_trial_that_is_tried_again(shelf: Shelf):
    """Or the other seeds would be trained with another rate."""
    plan, tasks = shelf.begun({"a": spt(rates=[1, 2])}, seeds=[0, 1])
    record_trial(shelf.output, tasks[0].cell, rate=1, tuning=plan.tuning, perplexity=9.0)
    record_trial(shelf.output, tasks[1].cell, rate=2, tuning=plan.tuning, error="no memory")
    assert [task.outcome() for task in tasks] == ["done", "failed", None, None]
    run(tasks, jobs=2, retry=True)
    when = {(event, name): moment for event, name, moment, _ in events(shelf)}
    assert begun(shelf)[0] == "a 2"
    assert when["begin", "a 0"] > when["end", "a 2"]


def test_a_trial_that_failed_is_left_alone_once_a_cell_is_trained_with_another_rate(shelf: Shelf):
    _, tasks = shelf.begun({"a": spt(rates=[1, 2])}, seeds=[0, 1])
    run(tasks[:3])
    lines = (shelf.output / "tuning.jsonl").read_text().splitlines()
    (shelf.output / "tuning.jsonl").write_text("\n".join([lines[0], lines[1].replace("2.0}", "null}")]) + "\n")
    assert [task.outcome() for task in tasks] == ["done", "failed", "done", None]
    run(tasks, retry=True)
    assert begun(shelf)[3:] == ["a 1"], "the second seed alone"


def test_at_most_so_many_cells(shelf: Shelf):
    _, tasks = shelf.begun({"a": spt(rates=[1, 2]), "b": spt(rates=[3, 4])}, seeds=[0, 1])
    run(tasks, limit=1)
    assert begun(shelf) == ["a 1", "a 2", "a 0"], "with their trials, and no others"
    run(tasks, limit=2)
    assert begun(shelf)[3:] == ["b 3", "b 4", "b 0", "a 1"]


def test_a_process_that_is_stopped_from_outside_does_not_hold_up_the_rest(shelf: Shelf):
    _, tasks = shelf.begun({"stopped": spt(rates=[1, 2])})
    run(tasks)
    errors = [json.loads(line)["error"] for line in (shelf.output / "tuning.jsonl").read_text().splitlines()]
    assert errors == ["the process was stopped from outside\nalmost done"] * 2
    assert record(shelf, "stopped")["error"].startswith("the process was stopped from outside")


def test_two_grids_on_one_folder_share_the_work(shelf: Shelf):
    _, tasks = shelf.begun({"a": spt(rates=[1, 2]), "b": spt(rates=[3, 4])}, seeds=[0, 1, 2])
    displays = [Recorder(), Recorder()]
    both = [threading.Thread(target=run, args=(tasks,), kwargs={"jobs": 2, "display": one}) for one in displays]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert Counter(begun(shelf)).most_common(1)[0][1] <= 2, "`a 1` is a trial and a cell"
    assert len(begun(shelf)) == len(tasks) == 10
    assert all(task.outcome() == "done" for task in tasks)
    own = [name for display in displays for name, _, mine in display.ends if mine]
    assert sorted(own) == sorted(task.name for task in tasks)


def test_ctrl_c_stops_the_processes_and_the_next_grid_goes_on(shelf: Shelf):
    _, tasks = shelf.begun({"a": spt(), "b": spt(), "c": spt()})
    (shelf.folder / "slowly").touch()
    display = Recorder(interrupt=shelf.folder / "events.jsonl")
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(tasks, jobs=2, display=display)
    assert display.stopped
    assert time.monotonic() - begin < 20
    stopped = [name for event, name, *_ in events(shelf) if event == "stop"]
    assert set(stopped) >= set(begun(shelf)), "each process had the time to keep its state"
    assert not any(task.outcome() for task in tasks)
    assert not any(task.status() == "running" for task in tasks)
    (shelf.folder / "slowly").unlink()
    run(tasks, jobs=2)
    assert all(task.outcome() == "done" for task in tasks)


def test_the_processes_of_a_grid_that_was_killed_stop_and_the_next_one_goes_on(shelf: Shelf):
    _, tasks = shelf.begun({"a": spt(), "b": spt()})
    (shelf.folder / "slowly").touch()
    grid = subprocess.Popen([sys.executable, "-c", ALONE, str(LIGHT), str(shelf.output)], stderr=subprocess.DEVNULL)
    try:
        assert soon(lambda: len(begun(shelf)) == 2)
    finally:
        grid.kill()
        grid.wait()
    assert soon(lambda: [event for event, *_ in events(shelf)].count("stop") == 2), "they outlived their grid"
    (shelf.folder / "slowly").unlink()
    assert [task.outcome() for task in tasks] == [None, None]
    run(tasks, jobs=2)
    assert [task.outcome() for task in tasks] == ["done", "done"]


def soon(condition: Callable[[], bool]) -> bool:
    """Whether something comes true within a minute."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()
