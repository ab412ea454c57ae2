"""How far a cell is: times add up over the processes that worked on it, also where one was killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sptune.experiments import state as states
from sptune.experiments.state import STATE_NAME, State, StateFile, read_state


def test_times_add_up_over_processes(tmp_path: Path):
    for n in range(1, 3):
        file = StateFile(tmp_path)
        with file.timed("train_seconds"):
            time.sleep(0.05)
        file.trained()
        with file.timed("evaluate_seconds"):
            time.sleep(0.01)
        found = read_state(tmp_path)
        assert found.starts == n
        assert n * 0.05 <= found.train_seconds < n * 0.05 + 0.2
        assert n * 0.01 <= found.evaluate_seconds < found.train_seconds


def test_what_a_killed_process_had_measured_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(states, "INTERVAL", 0.0)
    file = StateFile(tmp_path)
    with file.timed("train_seconds"):
        time.sleep(0.05)
        file.show("training", 3, 9)
        killed, again = read_state(tmp_path), StateFile(tmp_path).state
    assert (killed.part, killed.done, killed.total) == ("training", 3, 9)
    assert killed.train_seconds >= 0.05
    assert (again.train_seconds, again.starts, again.part) == (killed.train_seconds, 2, "")


def test_progress_is_not_written_at_every_step(tmp_path: Path):
    file = StateFile(tmp_path)
    file.show("training", 1, 9)
    file.show("training", 2, 9)
    assert read_state(tmp_path).done == 1
    file.save()
    assert read_state(tmp_path).done == 2


def test_time_counts_also_where_it_ends_in_an_error(tmp_path: Path):
    file = StateFile(tmp_path)

    def late_error() -> None:
        time.sleep(0.02)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), file.timed("evaluate_seconds"):
        late_error()
    assert read_state(tmp_path).evaluate_seconds >= 0.02


@pytest.mark.parametrize("damage", ["", "[]", '{"starts": "many"}'])
def test_a_damaged_state_is_a_new_one(tmp_path: Path, damage: str):
    (tmp_path / STATE_NAME).write_text(damage)
    assert read_state(tmp_path) == State()


def test_memory_is_in_bytes_and_only_grows(tmp_path: Path):
    grow = "before = peak_bytes(); bytes(60_000_000).replace(b'\\0', b'x'); print(before, peak_bytes())"
    code = f"from sptune.experiments.memory import peak_bytes; {grow}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    assert 5e6 < before < 60e6
    assert before + 50e6 < after < before + 200e6
    file = StateFile(tmp_path)
    file.trained()
    assert read_state(tmp_path).train_peak_bytes >= before
