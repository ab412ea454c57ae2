"""What a comparison's folder was begun with: it may grow, and everything else that changed is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from small_comparison import METHODS, Shelf
from sptune.config import load_comparison
from sptune.errors import StorageError, UsageError
from sptune.experiments.claim import claimed
from sptune.experiments.folders import cell_folder
from sptune.experiments.plan import PLAN_NAME, SETTINGS_NAME, begin, check, make_plan, read_plan


def refusal(shelf: Shelf, methods: dict[str, Any] | None = None, **changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        check(shelf.output, make_plan(shelf.settings(methods, **changes)))
    return str(caught.value)


def grow(shelf: Shelf, methods: dict[str, Any] | None = None, **changes: Any) -> int:
    plan, _ = shelf.begun(methods, **changes)
    assert read_plan(shelf.output) == plan
    return len(plan.cells)


def test_a_plan_is_read_as_it_was_written(shelf: Shelf):
    methods = {
        **METHODS,
        "lora": {"kind": "lora", "grid": {"rank": [2, 4], "training.epochs": [0.5]}, "targets": ["q_proj"]},
        "paper": {"kind": "spt", "set": {"paper_exact": True}},
    }
    plan, _ = shelf.begun(methods, seeds=[0, 4], decodings=["fused"])
    again = read_plan(shelf.output)
    assert again.cells == plan.cells
    assert (again.tuning, again.probe) == (plan.tuning, plan.probe)
    assert again.cell("lora@rank=4,training.epochs=0.5", 4).settings.rank == 4
    assert load_comparison(shelf.output / SETTINGS_NAME).methods.keys() == methods.keys()
    with pytest.raises(UsageError, match="has no cell pt with seed 9"):
        again.cell("pt", 9)


def test_it_may_grow(shelf: Shelf):
    grid = {"k": {"kind": "spt", "grid": {"prompts.count": [2]}}}
    assert grow(shelf, grid) == 1
    assert grow(shelf, grid) == 1
    wider = {"k": {"kind": "spt", "grid": {"prompts.count": [2, 4]}}}
    assert grow(shelf, wider) == 2
    assert grow(shelf, {**wider, "pt": METHODS["pt"]}) == 3
    assert grow(shelf, {**wider, "pt": METHODS["pt"]}, seeds=[0, 1]) == 6
    assert grow(shelf, {**wider, "pt": METHODS["pt"]}, seeds=[0, 1], decodings=["fused"], reference="pt") == 6


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        ({"pt": METHODS["pt"]}, {}, "spt seed 0 was there, is gone"),
        (None, {"seeds": [1]}, "pt seed 0 was there, is gone"),
        (None, {"set": {"training.epochs": 3}}, "pt: training.epochs was 1.0, is 3.0"),
        (None, {"set": {"data.path": "b.txt"}}, "spt: data.path was "),
        (None, {"tuning": {"dialogues": 7}}, "tuning.dialogues was 200, is 7"),
        (None, {"probe": "none"}, "probe was 'validation', is 'none'"),
        (None, {"controls": []}, "spt: the generation of decoding random was there, is gone"),
        (None, {"ranking": []}, "pt: the ranking of decoding top1 was there, is gone"),
        (
            {**METHODS, "spt": {"kind": "spt", "rates": [1], "set": {"prompts.length": 2}}},
            {},
            "spt: rates was [], is [1.0]",
        ),
        ({**METHODS, "spt": {"kind": "spt_lora"}}, {}, "spt: kind was 'spt', is 'spt_lora'"),
    ],
)
def test_what_else_changes_is_named(shelf: Shelf, methods: Any, changes: dict[str, Any], message: str):
    shelf.begun()
    if methods and "spt" in methods and "rates" in methods["spt"]:
        changes = {**changes, "tuning": {"unequal": True}}
    text = refusal(shelf, methods, **changes)
    assert message in text
    assert "choose another folder with output=FOLDER" in text


def test_how_replies_are_reranked_may_change_until_some_are(shelf: Shelf):
    """The settings of a decoding matter to nothing else: neither before it is asked for, nor before a cell has it."""
    more = {"set": {"evaluation.rerank.candidates": 4}}
    shelf.begun()
    grow(shelf, **more)
    grow(shelf, decodings=["rerank"], set={"evaluation.rerank.candidates": 2})
    grow(shelf, decodings=["rerank"], **more)
    assert {cell.recipe.evaluation.rerank.candidates for cell in read_plan(shelf.output).cells} == {4}
    changed = {"decodings": ["rerank"], "set": {"evaluation.rerank.candidates": 8}}
    place = cell_folder(shelf.output, "pt", 0)
    with claimed(place):
        assert "pt: evaluation.rerank.candidates was 4, is 8" in refusal(shelf, **changed), "one is being made"
    for name in ("top1", "rerank"):
        (place / "evaluation" / name).mkdir(parents=True)
    (place / "evaluation" / "top1" / "evaluation.json").touch()
    check(shelf.output, make_plan(shelf.settings(**changed)))
    (place / "evaluation" / "rerank" / "evaluation.json").touch()
    assert "spt: evaluation.rerank.candidates was 4, is 8" in refusal(shelf, **changed)


def test_how_cells_are_evaluated_may_change_until_one_is(shelf: Shelf):
    """An encoder that cannot be loaded shows when the first cell is evaluated: training shall not have been for nothing."""
    shelf.begun()
    grow(shelf, set={"evaluation.bertscore_model": "nope"})
    grow(shelf, set={"evaluation.bertscore_model": None, "evaluation.max_new_tokens": 5})
    assert "pt: evaluation.gate_temperature was None, is 0.5" in refusal(
        shelf, set={"evaluation.gate_temperature": 0.5}
    )
    place = cell_folder(shelf.output, "pt", 0)
    changed = {"set": {"evaluation.max_new_tokens": 7}}
    with claimed(place):
        assert "pt: evaluation.max_new_tokens was 5, is 7" in refusal(shelf, **changed), "one is being made"
    (place / "evaluation" / "top1").mkdir(parents=True)
    check(shelf.output, make_plan(shelf.settings(**changed)))
    (place / "evaluation" / "top1" / "evaluation.json").touch()
    assert "spt: evaluation.max_new_tokens was 5, is 7" in refusal(shelf, **changed)


def test_a_difference_is_told_once_however_many_seeds_have_it(shelf: Shelf):
    shelf.begun(seeds=[0, 1, 2])
    assert refusal(shelf, seeds=[0, 1, 2], set={"training.epochs": 3}).count("  pt: training.epochs") == 1


def test_the_name_and_place_of_a_run_are_no_settings(shelf: Shelf):
    shelf.begun()
    check(shelf.output, make_plan(shelf.settings(set={"name": "other", "output": "elsewhere"})))


def test_a_recipe_file_that_changed_meanwhile_is_noticed(shelf: Shelf):
    shelf.begun()
    shelf.shared.write_text(shelf.shared.read_text().replace("max_length: 200", "max_length: 201"))
    assert "template.max_length was 200, is 201" in refusal(shelf)


def test_dialogues_that_changed_meanwhile_are_noticed(shelf: Shelf):
    settings = shelf.settings()
    plan = make_plan(settings)
    begin(shelf.output, settings, plan)
    check(shelf.output, replace(plan, data={"data.path=a.txt": "1"}))  # an older folder, which has no digests
    begin(shelf.output, settings, replace(plan, data={"data.path=a.txt": "1"}))
    check(shelf.output, replace(plan, data={"data.path=a.txt": "1", "data.path=b.txt": "2"}))
    with pytest.raises(UsageError, match=r"dialogues of data\.path=a\.txt are no longer those that it was begun with"):
        check(shelf.output, replace(plan, data={"data.path=a.txt": "3"}))


def test_a_folder_with_something_else_is_refused(shelf: Shelf):
    shelf.output.mkdir()
    check(shelf.output, make_plan(shelf.settings()))
    (shelf.output / f".{PLAN_NAME}.1234.partial").touch()  # another process is about to begin it, or was killed
    check(shelf.output, make_plan(shelf.settings()))
    (shelf.output / f".{PLAN_NAME}.1234.partial").unlink()
    (shelf.output / "thesis.tex").touch()
    settings = shelf.settings()
    with pytest.raises(StorageError, match="is in use, and holds no comparison"):
        begin(shelf.output, settings, make_plan(settings))
    assert [path.name for path in shelf.output.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"tuning": {}, "probe": "none", "cells": [{"method": "a"}]}'])
def test_a_damaged_plan_is_told(shelf: Shelf, damage: str):
    shelf.begun()
    (shelf.output / PLAN_NAME).write_text(damage)
    with pytest.raises(UsageError, match="cannot be read by this version"):
        read_plan(shelf.output)


def test_a_folder_without_plan_is_told(tmp_path: Path):
    with pytest.raises(UsageError, match="holds no comparison"):
        read_plan(tmp_path)
