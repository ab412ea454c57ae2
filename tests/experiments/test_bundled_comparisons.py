"""The comparisons that come with the package: every cell of each has a good recipe."""

from __future__ import annotations

import pytest

from sptune.config import bundled_recipes, load_comparison
from sptune.config.reading import read_mapping
from sptune.data.load import load_dialogues
from sptune.experiments.cells import expand

NAMES = [name for name, path in bundled_recipes().items() if "methods" in read_mapping(path)]


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_every_comparison_is_good(name: str):
    settings = load_comparison(name)
    cells = expand(settings, place=name)
    assert cells
    trained = [cell for cell in cells if cell.settings.trains]
    budgets = {(one.recipe.training.epochs, one.recipe.training.max_steps) for one in trained if not one.settings.rag}
    assert len(budgets) == 1, "one budget"
    assert all(one.recipe.training.max_steps for one in trained if one.settings.rag), "each turn is a sequence there"
    assert len({cell.recipe.data for cell in cells}) == 1
    assert len({cell.recipe.model_dump_json(include={"template", "model"}) for cell in cells}) == 1
    assert bundled_recipes()[name].read_text().splitlines()[0].startswith("# ")


def test_their_folders_differ():
    assert len({load_comparison(name).folder for name in NAMES}) == len(NAMES)


def test_the_main_table_has_the_methods_that_the_paper_compares_with_and_more():
    methods = load_comparison("compare/main").methods
    kinds = {method.kind for method in methods.values()}
    assert kinds == {"zero_shot", "few_shot", "rag", "full", "lora", "prefix", "p_tuning", "spt", "spt_lora"}
    assert {method.rag for method in methods.values()} >= {"bm25", "dense"}
    assert all(len(method.rates) == 4 for method in methods.values() if method.trains)
    assert load_comparison("compare/main").reference == "pt"
    assert load_comparison("compare/main").seeds == (0, 1, 2)


def test_the_quick_one_runs_on_what_is_bundled():
    settings = load_comparison("compare/quick")
    for cell in expand(settings):
        assert cell.recipe.model.base == "smollm2-135m"
        assert len(load_dialogues(cell.recipe.data.path, split=cell.recipe.data.train)) == 24
