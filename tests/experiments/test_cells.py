"""From a comparison to its cells: labels, recipes, evaluations; every mistake in any cell is found before anything runs."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_comparison import Shelf
from sptune.errors import RecipeError
from sptune.experiments.cells import expand, label_of

SAFE = set(string.ascii_letters + string.digits + "_.,=+-@")


def refusal(shelf: Shelf, methods: dict[str, Any], **more: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        expand(shelf.settings(methods, **more))
    return str(caught.value)


def test_methods_settings_and_seeds(shelf: Shelf):
    methods = {
        "pt": {"kind": "spt", "set": {"prompts.count": 1}},
        "k": {"kind": "spt", "grid": {"prompts.count": [2, 4], "losses.update": ["all", "responsibility"]}},
        "lora": {"kind": "lora", "grid": {"rank": [2, 4], "training.epochs": [2]}, "seeds": [1]},
    }
    cells = expand(shelf.settings(methods, seeds=[0, 1]))
    assert [cell.seed for cell in cells] == [0] * 5 + [1] * 7, "a whole table with one seed comes first"
    assert len({cell.name for cell in cells}) == 12
    by_label = {cell.label: cell for cell in cells}
    odd = by_label["k@prompts.count=4,losses.update=responsibility"]
    assert (odd.recipe.prompts.count, odd.recipe.losses.update) == (4, "responsibility")
    lora = by_label["lora@rank=4,training.epochs=2"]
    assert (lora.settings.rank, lora.recipe.training.epochs, lora.settings.grid) == (4, 2, {})
    assert lora.setting == {"rank": 4, "training.epochs": 2}
    assert all(cell.recipe.seed == cell.seed for cell in cells)
    assert all(cell.recipe.data == cells[0].recipe.data for cell in cells)


def test_what_is_measured_where(shelf: Shelf):
    one = {"kind": "spt", "set": {"prompts.count": 1}}
    settings = shelf.settings(
        {"pt": one, "spt": {"kind": "spt"}, "lora": {"kind": "lora"}, "plain": {**one, "decodings": []}},
        decodings=["fused", "rerank"],
        ranking=["top1", "fused"],
        generation=["top1", "random", "rerank"],
    )
    found = {cell.method: cell.evaluations for cell in expand(settings)}
    reranked = {"top1": ("likelihood", "ranking", "generation"), "rerank": ("generation",)}
    assert found["pt"] == found["lora"] == reranked, "with one prompt there is nothing to fuse"
    assert found["plain"] == {"top1": reranked["top1"]}
    assert found["spt"] == {
        "top1": ("likelihood", "ranking", "generation"),
        "random": ("generation",),
        "best-single": (),
        "fused": ("ranking",),
        "rerank": ("generation",),
    }


def test_mistakes_of_all_cells_are_reported_together(shelf: Shelf):
    methods = {
        "a": {"kind": "spt", "set": {"prompts.cout": 1}},
        "b": {"kind": "spt", "grid": {"prompts.count": [*range(1, 40), 0], "training.epoch": [1]}},
        "c": {"kind": "lora", "grid": {"rank": [4, 0]}},
        "d": {"kind": "spt", "recipe": "no-such-recipe"},
        "e": {"kind": "spt", "grid": {"losses.update": ["most"]}},
    }
    text = refusal(shelf, methods)
    for part in (
        "methods.a: prompts.cout: unknown key; did you mean prompts.count?",
        "methods.b: training.epoch: unknown key; did you mean training.epochs?",
        "methods.b: prompts.count: Input should be greater than or equal to 1 (got 0)",
        "methods.c.grid.rank: Input should be greater than or equal to 1 (got 0)",
        "methods.d: no-such-recipe: no such recipe file",
        "methods.e: losses.update: Input should be",
    ):
        assert part in text
    assert "6 mistakes" in text, "each once, however many cells have it"


def test_a_mistake_in_the_shared_recipe_is_told_once(shelf: Shelf):
    text = refusal(shelf, {"a": {"kind": "spt"}, "b": {"kind": "lora"}}, set={"training.epocs": 1})
    assert text.count("training.epocs") == 1


def test_an_unknown_decoding_is_refused(shelf: Shelf):
    text = refusal(shelf, {"a": {"kind": "spt"}}, decodings=["fuzed"])
    assert "decodings: fuzed: evaluation.decoding: Input should be" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": {"evaluation.split": None}}, "recipe: names no test dialogues"),
        ({"set": {"data.validation": None}}, "controls: needs validation dialogues"),
        ({"set": {"data.validation": None}, "controls": []}, "probe: needs validation dialogues"),
    ],
)
def test_dialogues_that_are_needed_are_asked_for(shelf: Shelf, changes: dict[str, Any], message: str):
    assert message in refusal(shelf, {"a": {"kind": "spt"}}, **changes)


def test_rates_need_validation_dialogues(shelf: Shelf):
    text = refusal(shelf, {"a": {"kind": "lora", "rates": [1, 2]}}, set={"data.validation": None})
    assert "rates: needs validation dialogues" in text
    assert expand(shelf.settings({"a": {"kind": "lora", "rates": [1]}}, set={"data.validation": None}))


@pytest.mark.parametrize(
    ("key", "values"), [("losses.update", ["all", "all"]), ("template.stops", [["a+b"], ["a", "b"]])]
)
def test_two_settings_of_one_name_are_refused(shelf: Shelf, key: str, values: list[Any]):
    assert "two settings have the name a@" in refusal(shelf, {"a": {"kind": "spt", "grid": {key: values}}})


# Labels.

values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.lists(st.text()))


@given(st.dictionaries(st.sampled_from(["prompts.text", "data.path", "seed"]), values, min_size=1))
def test_a_label_is_a_file_name(setting: dict[str, Any]):
    label = label_of("m", setting)
    assert set(label) <= SAFE
    assert len(label) < 200


def test_ordinary_labels_are_plain():
    assert label_of("k", {}) == "k"
    assert label_of("k", {"a": True, "b": None, "c": 0.001, "d": [1, 2]}) == "k@a=true,b=null,c=0.001,d=1+2"
    assert label_of("k", {"a": "x/y"}).startswith("k@a=x-y-")
    assert label_of("k", {"a": "x/y"}) != label_of("k", {"a": "x:y"})
