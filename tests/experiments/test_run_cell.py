"""Whole cells of a tiny model: what is kept, what the controls say, and that nothing is done twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from small_comparison import METHODS, Shelf
from sptune.cli.compare_task import do_task
from sptune.errors import AdapterError, TrainingError
from sptune.evaluation.records import read_records
from sptune.evaluation.result import TurnRecord, load_result
from sptune.experiments import run_cell as cells
from sptune.experiments.plan import Plan
from sptune.experiments.record import read_record
from sptune.experiments.run_cell import complete
from sptune.experiments.tasks import Task
from sptune.model.load import LoadedBase
from sptune.training.metrics_log import read_metrics

MORE: dict[str, Any] = {
    "zero": {"kind": "zero_shot"},
    "broken": {"kind": "spt", "set": {"prompts.init": "file", "prompts.file": "nowhere"}},
}


@pytest.fixture(scope="module")
def ran(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shelf, Plan, dict[str, Task]]:
    """A comparison with two cells done: one prompt; three prompts, with controls and fused decoding."""
    shelf = Shelf(tmp_path_factory.mktemp("shelf"), tiny_base)
    plan, tasks = shelf.begun(
        {**METHODS, **MORE},
        decodings=["fused", "rerank"],
        generation=["top1", "random", "fused", "rerank"],
        ranking=["top1"],
        set={"evaluation.rerank.candidates": 2},
    )
    by_label = {task.cell.label: task for task in tasks}
    for label in ("pt", "spt"):
        do_task(by_label[label], plan)
    return shelf, plan, by_label


def turns(task: Task, name: str) -> list[TurnRecord]:
    return read_records(task.folder / "evaluation" / name / "turns.jsonl", TurnRecord)


def record(task: Task) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((task.folder / "cell.json").read_text())
    return found


def test_the_record(ran: tuple[Shelf, Plan, dict[str, Task]]):
    _, _, tasks = ran
    found = record(tasks["spt"])
    assert (found["method"], found["kind"], found["label"], found["seed"]) == ("spt", "spt", "spt", 0)
    assert (found["status"], found["error"]) == ("done", None)
    assert found["learning_rate"] == 0.05, "the recipe's own"
    assert found["trainable_parameters"] > record(tasks["pt"])["trainable_parameters"] > 0
    assert found["train_seconds"] > 0
    assert found["evaluate_seconds"] > 0
    assert found["peak_memory_bytes"] >= found["train_peak_memory_bytes"] > 10_000_000
    metrics = read_metrics(tasks["spt"].folder / "run" / "metrics.jsonl")
    assert found["train_tokens"] == sum(line["tokens"] for line in metrics if line["kind"] == "train") > 0
    assert "torch" in found["versions"]
    assert tasks["spt"].outcome() == "done"
    likelihood = load_result(tasks["spt"].folder / "evaluation" / "top1").likelihood
    assert likelihood
    assert tasks["spt"].perplexity() == likelihood.perplexity


def test_one_prompt_has_no_controls_and_no_probe_but_candidates(ran: tuple[Shelf, Plan, dict[str, Task]]):
    folder = ran[2]["pt"].folder
    found = {path.name: load_result(path) for path in (folder / "evaluation").iterdir()}
    assert found.keys() == {"top1", "rerank"}
    assert not (folder / "probe.json").exists()
    assert len((folder / "evaluation" / "rerank" / "candidates.jsonl").read_text().splitlines()) == len(
        turns(ran[2]["pt"], "top1")
    )
    assert found["rerank"].metrics
    assert found["rerank"].likelihood == found["top1"].likelihood
    assert found["rerank"].selection is None


def test_every_decoding_has_its_likelihoods_and_only_some_have_replies(ran: tuple[Shelf, Plan, dict[str, Task]]):
    folder = ran[2]["spt"].folder / "evaluation"
    results = {path.name: load_result(path) for path in folder.iterdir()}
    spoken = {"top1", "random", "fused", "rerank"}
    assert results.keys() == {*spoken, "best-single"}
    assert {name for name, found in results.items() if found.metrics} == spoken
    assert {name for name in results if (folder / name / "generations.jsonl").exists()} == spoken
    for found in results.values():
        assert found.likelihood
        assert results["top1"].likelihood
        assert found.likelihood.prompt_perplexity == results["top1"].likelihood.prompt_perplexity
        assert found.data == results["top1"].data
        assert found.settings["stops"] == results["top1"].settings["stops"]
    assert results["fused"].settings["decoding"]["kind"] == "fused"
    assert results["fused"].likelihood.perplexity == results["top1"].likelihood.perplexity  # type: ignore[union-attr]


def test_the_controls_are_what_they_are_called(ran: tuple[Shelf, Plan, dict[str, Task]]):
    task = ran[2]["spt"]
    fit = read_records(task.folder / "validation-turns.jsonl", TurnRecord)
    totals = [sum(one.logprobs[k] for one in fit if one.logprobs) for k in range(3)]
    best = max(range(3), key=totals.__getitem__)
    assert {one.prompt for one in turns(task, "best-single")} == {best}
    likelihood = load_result(task.folder / "evaluation" / "best-single").likelihood
    assert likelihood
    assert likelihood.perplexity == likelihood.prompt_perplexity[best]
    top1, random = turns(task, "top1"), turns(task, "random")
    assert [one.logprobs for one in random] == [one.logprobs for one in top1]
    assert [one.scores for one in random] == [one.scores for one in top1]
    assert len({one.prompt for one in random}) == 3
    assert all(one.prompt == max(range(3), key=one.scores.__getitem__) for one in top1)


def test_the_probe_picks_a_prompt_for_every_test_turn(ran: tuple[Shelf, Plan, dict[str, Task]]):
    task = ran[2]["spt"]
    found = json.loads((task.folder / "probe.json").read_text())
    records = turns(task, "top1")
    assert found["fitted_on"] == "validation"
    assert found["fitted_turns"] == len(read_records(task.folder / "validation-turns.jsonl", TurnRecord))
    for name in ("hidden", "embedding"):
        assert len(found[name]["picks"]) == len(records)
    oracle = load_result(task.folder / "evaluation" / "top1").likelihood.oracle_perplexity  # type: ignore[union-attr]
    assert found["perplexity"] >= oracle


def test_what_is_there_is_not_done_again(ran: tuple[Shelf, Plan, dict[str, Task]], monkeypatch: pytest.MonkeyPatch):
    """A cell that was stopped between two evaluations trains nothing and makes only what is missing."""
    _, plan, tasks = ran
    task = tasks["spt"]
    (task.folder / "cell.json").unlink()
    shutil.rmtree(task.folder / "evaluation" / "fused")
    (task.folder / "probe.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in task.folder.rglob("*") if path.is_file()}
    assert task.outcome() is None
    measured: list[Path] = []
    real = cells.evaluate
    monkeypatch.setattr(cells, "evaluate", lambda *a, **k: (measured.append(k["output"]), real(*a, **k))[1])
    do_task(task, plan)
    assert task.outcome() == "done"
    assert [path.name for path in measured] == ["fused"]
    assert (task.folder / "probe.json").exists()
    changed = {path.name for path, moment in kept.items() if path.stat().st_mtime_ns != moment}
    assert changed <= {"state.json", "recipe.yaml"}


def test_a_further_decoding_reopens_a_cell(ran: tuple[Shelf, Plan, dict[str, Task]]):
    _, _, tasks = ran
    task = tasks["spt"]
    more = replace(task.cell, evaluations={**task.cell.evaluations, "gated": ("generation",)})
    assert Task(task.comparison, more).outcome() is None
    deeper = replace(task.cell, evaluations={**task.cell.evaluations, "random": ("ranking", "generation")})
    assert Task(task.comparison, deeper).outcome() is None
    less = replace(task.cell, evaluations={"top1": ("likelihood",)})
    assert Task(task.comparison, less).outcome() == "done"


def test_an_evaluation_is_complete_with_all_that_was_asked_for(
    ran: tuple[Shelf, Plan, dict[str, Task]], tmp_path: Path
):
    folder = ran[2]["spt"].folder / "evaluation"
    assert complete(folder / "random", ("generation",))
    assert not complete(folder / "random", ("generation", "ranking"))
    assert complete(folder / "best-single", ())
    assert not complete(tmp_path, ())
    shutil.copytree(folder / "random", tmp_path / "random")
    raw = json.loads((tmp_path / "random" / "evaluation.json").read_text())
    (tmp_path / "random" / "evaluation.json").write_text(json.dumps({**raw, "likelihood": None}))
    assert not complete(tmp_path / "random", ("generation",)), "stopped before the likelihoods were added"


def test_an_evaluation_stays_until_a_further_part_of_it_is_there(
    ran: tuple[Shelf, Plan, dict[str, Task]], monkeypatch: pytest.MonkeyPatch
):
    _, plan, tasks = ran
    task = tasks["spt"]
    more = {**task.cell.evaluations, "random": ("likelihood", "ranking", "generation")}
    deeper = Task(task.comparison, replace(task.cell, evaluations=more))
    place = task.folder / "evaluation" / "random"
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise TrainingError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr("sptune.evaluation.parts.Parts.generate", fail)
        with pytest.raises(TrainingError, match="no memory"):
            do_task(deeper, plan)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    do_task(deeper, plan)
    assert complete(place, ("ranking", "generation"))
    assert not (task.folder / "unfinished").exists()


def test_a_method_that_trains_nothing(ran: tuple[Shelf, Plan, dict[str, Task]]):
    _, plan, tasks = ran
    do_task(tasks["zero"], plan)
    found = record(tasks["zero"])
    assert (found["trainable_parameters"], found["train_tokens"], found["status"]) == (0, 0, "done")
    assert found["learning_rate"] is None


def test_what_cannot_be_done_is_raised_and_leaves_no_record(ran: tuple[Shelf, Plan, dict[str, Task]]):
    _, plan, tasks = ran
    with pytest.raises(AdapterError):
        do_task(tasks["broken"], plan)
    assert read_record(tasks["broken"].folder) is None


def test_a_trial_trains_shortly_and_leaves_a_line(tiny_base: LoadedBase, tmp_path: Path):
    shelf = Shelf(tmp_path, tiny_base)
    methods = {"pt": {**METHODS["pt"], "rates": [0.05, 0.2]}}
    plan, tasks = shelf.begun(methods, tuning={"dialogues": 4, "seed": 5}, set={"training.epochs": 2})
    for task in tasks[:2]:
        do_task(task, plan)
        assert task.outcome() == "done"
        assert not (task.folder / "run").exists(), "a trial's weights are not kept"
    lines = [json.loads(line) for line in (shelf.output / "tuning.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == [0.05, 0.2]
    assert len({line["perplexity"] for line in lines}) == 2
    assert all((line["seed"], line["dialogues"], line["epochs"]) == (5, 4, 1.0) for line in lines)
    assert all(line["seconds"] > 0 for line in lines)
    do_task(tasks[2], plan)
    best = min(lines, key=lambda line: line["perplexity"])["learning_rate"]
    assert record(tasks[2])["learning_rate"] == best
