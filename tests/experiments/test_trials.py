"""Trials of learning rates: what is kept of them, which rate is taken, and what a trial trains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from small_comparison import Shelf
from sptune.config import TuningSettings, dump_recipe, parse_recipe
from sptune.errors import TrainingError
from sptune.experiments.cells import Cell
from sptune.experiments.folders import cell_folder
from sptune.experiments.record import write_record
from sptune.experiments.tasks import Task, to_retry
from sptune.experiments.trials import choose_rate, record_trial, tried
from sptune.files import write_text

TUNING = TuningSettings(dialogues=5, epochs=2, seed=3)


def cell(shelf: Shelf, **method: object) -> Cell:
    plan, _ = shelf.begun({"a": {"kind": "spt", **method}}, tuning={"unequal": True})
    return plan.cells[0]


def keep(shelf: Shelf, one: Cell, perplexities: dict[float, float | None]) -> None:
    for rate, value in perplexities.items():
        record_trial(shelf.output, one, rate=rate, tuning=TUNING, perplexity=value, error=None if value else "it burst")


def test_a_line_a_trial(shelf: Shelf):
    one = cell(shelf, rates=[1, 2], grid={"losses.update": ["all"]})
    keep(shelf, one, {1.0: 20.0, 2.0: None})
    first, second = map(json.loads, (shelf.output / "tuning.jsonl").read_text().splitlines())
    assert first == {
        "method": "a",
        "setting": {"losses.update": "all"},
        "learning_rate": 1.0,
        "perplexity": 20.0,
        "seconds": 0.0,
        "seed": 3,
        "dialogues": 5,
        "epochs": 2.0,
        "error": None,
    }
    assert (second["perplexity"], second["error"]) == (None, "it burst")


def test_the_best_that_was_tried_is_taken(shelf: Shelf):
    one = cell(shelf, rates=[0.1, 0.2, 0.3])
    keep(shelf, one, {0.1: 30.0, 0.2: 20.0, 0.3: None})
    assert choose_rate(shelf.output, one) == 0.2
    keep(shelf, one, {0.2: 40.0})
    assert choose_rate(shelf.output, one) == 0.1, "of equal rates the last counts"


def test_perplexities_that_are_no_numbers_are_failures(shelf: Shelf):
    one = cell(shelf, rates=[0.1, 0.2])
    keep(shelf, one, {0.1: float("nan"), 0.2: float("inf")})
    assert tried(shelf.output, one) == {0.1: None, 0.2: None}
    with pytest.raises(TrainingError, match=r"a: none of the learning rates 0.1, 0.2 could be trained with"):
        choose_rate(shelf.output, one)


@pytest.mark.parametrize(("rates", "rate"), [([], None), ([0.7], 0.7)])
def test_without_a_choice_nothing_is_tried(shelf: Shelf, rates: list[float], rate: float | None):
    one = cell(shelf, rates=rates)
    assert not one.tunes
    assert choose_rate(shelf.output, one) == rate


def test_trials_of_other_methods_and_settings_do_not_count(shelf: Shelf):
    grid = {"kind": "spt", "rates": [1, 2], "grid": {"losses.update": ["all", "responsibility"]}}
    plan, _ = shelf.begun({"a": grid, "b": grid})
    keep(shelf, plan.cells[0], {1.0: 9.0})
    assert [len(tried(shelf.output, one)) for one in plan.cells] == [1, 0, 0, 0]


def test_a_line_that_was_cut_short_harms_neither_the_lines_before_nor_those_after(shelf: Shelf):
    one = cell(shelf, rates=[1, 2])
    keep(shelf, one, {1.0: 20.0})
    path = shelf.output / "tuning.jsonl"
    path.write_text(path.read_text() + '{"method": "a", "setting": {}, "learn')
    keep(shelf, one, {2.0: 10.0})
    assert tried(shelf.output, one) == {1.0: 20.0, 2.0: 10.0}


def test_what_was_tried_nowhere(tmp_path: Path, shelf: Shelf):
    assert tried(tmp_path, cell(shelf, rates=[1, 2])) == {}


def test_what_has_begun_goes_on_with_its_rate(shelf: Shelf):
    """Whatever is tried again later: weights that were trained with one rate are not said to be another's."""
    one = cell(shelf, rates=[0.1, 0.2])
    keep(shelf, one, {0.1: 30.0, 0.2: None})
    run = cell_folder(shelf.output, one.label, one.seed) / "run"
    write_text(
        run / "recipe.yaml", dump_recipe(parse_recipe({"data": {"path": "a.txt"}, "training": {"prompt_lr": 0.1}}))
    )
    keep(shelf, one, {0.2: 20.0})
    assert choose_rate(shelf.output, one) == 0.1
    assert choose_rate(shelf.output, replace(one, seed=5)) == 0.1, "nor is another seed trained otherwise"
    other = Task(shelf.output, replace(one, seed=5))
    failed = Task(shelf.output, one, rate=0.2)
    keep(shelf, one, {0.2: None})
    assert failed.outcome() == "failed"
    assert to_retry([failed, other]) == [], "whichever seeds are asked for"


def test_a_cell_that_was_done_keeps_what_it_was_when_a_further_evaluation_fails(shelf: Shelf):
    plan, (task, *_) = shelf.begun()
    task.folder.mkdir(parents=True)
    write_record(task.cell, task.folder, status="done", rate=0.5, trainable=7)
    before = json.loads((task.folder / "cell.json").read_text())
    task.fail("no room", tuning=plan.tuning)
    assert json.loads((task.folder / "cell.json").read_text()) == {**before, "status": "failed", "error": "no room"}
    assert task.outcome() == "failed"
    task.begin_again()
    assert json.loads((task.folder / "cell.json").read_text()) == before


def test_a_cell_that_never_was_done_keeps_no_evaluations_when_it_fails(shelf: Shelf):
    plan, (task, *_) = shelf.begun()
    task.folder.mkdir(parents=True)
    task.fail("no room", tuning=plan.tuning)
    assert json.loads((task.folder / "cell.json").read_text())["evaluations"] == {}
    task.begin_again()
    assert not (task.folder / "cell.json").exists()
