"""The bundled ablations: every recipe parses, every cell is a valid recipe, and together they vary what the paper leaves open."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sptune.config import ComparisonSettings, Recipe, bundled_recipes, load_comparison
from sptune.experiments.cells import Cell, expand

ROOT = Path(__file__).parents[2]
NAMES = sorted(name for name in bundled_recipes() if name.startswith("ablations/"))


@cache
def settings(name: str) -> ComparisonSettings:
    return load_comparison(name)


@cache
def cells(name: str) -> tuple[Cell, ...]:
    return tuple(expand(settings(name), place=name))


def value(recipe: Recipe, key: str) -> Any:
    found: Any = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return found


def varied(name: str, *keys: str) -> set[Any]:
    """The values of a key, or of several together, over the cells of a comparison."""
    rows = {tuple(value(cell.recipe, key) for key in keys) for cell in cells(f"ablations/{name}")}
    return rows if len(keys) > 1 else {row[0] for row in rows}


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_a_valid_recipe_with_the_budget_of_an_ablation(name: str) -> None:
    assert len(cells(name)) >= 3
    for cell in cells(name):
        assert cell.recipe.data.train == "1:200"
        assert (cell.recipe.data.validation, cell.recipe.evaluation.split) == ("701:750", "751:800")
    assert settings(name).seeds == (0,)
    assert settings(name).reference in settings(name).methods
    three = expand(load_comparison(name, ["seeds=[0,1,2]"]))
    assert len(three) == 3 * len(cells(name))


@pytest.mark.parametrize("name", NAMES)
def test_no_two_cells_of_an_ablation_are_the_same_training(name: str) -> None:
    trained = [(cell.settings.model_dump_json(exclude={"decodings"}), cell.recipe) for cell in cells(name)]
    same = [cell.label for n, cell in enumerate(cells(name)) if trained[n] in trained[:n]]
    assert not same


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_for_and_how_three_seeds_are_run(name: str) -> None:
    first, *rest = bundled_recipes()[name].read_text().splitlines()
    assert first.startswith("# ")
    assert len(first) > 30
    assert any(f"sptune compare {name} data.path=FILE seeds=[0,1,2]" in line for line in rest)


def test_their_folders_differ() -> None:
    assert len({settings(name).name for name in NAMES}) == len(NAMES)


def test_each_loss_is_removed() -> None:
    weights = ("losses.llm_weight", "losses.selection.weight", "losses.contrastive.weight", "losses.fusion.weight")
    found = varied("losses", *weights)
    assert {(1.0, 0.0, 0.4, 1.0), (1.0, 0.4, 0.0, 1.0), (1.0, 0.4, 0.4, 0.0), (1.0, 0.0, 0.0, 0.0)} <= found
    assert (1.0, 0.4, 0.4, 1.0) in found


def test_the_contrastive_loss_is_varied_by_direction_measure_and_threshold() -> None:
    keys = [f"losses.contrastive.{key}" for key in ("similarity", "similar", "threshold")]
    found = varied("contrastive", *keys)
    assert 0 in varied("contrastive", "losses.contrastive.weight")
    for similarity in ("persona_bleu", "chrf", "jaccard", "embedding"):
        for similar in ("attract", "repel"):
            assert len({row[2] for row in found if row[:2] == (similarity, similar)}) >= 3


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("fusion", "losses.fusion.kind", {"probability", "score_weighted_logits"}),
        ("fusion", "losses.fusion.weight", {0, 0.3, 1, 3}),
        ("prompt-count", "prompts.count", {1, 2, 4, 8, 16}),
        ("prompt-length", "prompts.length", {1, 4, 8, 16, 32}),
        ("prompt-length", "prompts.count", {1, 4}),
        ("retriever", "retriever.kind", {"linear", "mlp", "transformer", "identity"}),
        ("retriever-input", "retriever.input", {"mean", "recent", "hidden"}),
        ("retriever-input", "retriever.keys", {"prompts", "random", "clusters"}),
        ("retriever-input", "retriever.whiten", {None, 16, 64, 256}),
        ("retriever-input", "retriever.centre", {True, False}),
        ("initialisation", "prompts.init", {"vocabulary", "text", "kmeans", "random"}),
        ("update", "losses.update", {"all", "responsibility"}),
        ("update", "losses.responsibility_anneal", {0, 0.5}),
        ("teacher", "losses.selection.teacher_noise", {0, 0.01, 0.1, 1}),
        ("teacher", "losses.selection.kind", {"kl", "regret"}),
        ("teacher", "losses.shuffle_teachers", {True, False}),
        ("objective", "losses.objective", {"mean", "expected", "mixture"}),
        ("objective", "losses.balance_weight", {0, 0.03, 0.1, 0.3}),
        ("warm-start", "training.shared", {0, 0.25, 0.5, 0.75}),
    ],
)
def test_a_setting_takes_its_values(name: str, key: str, values: set[Any]) -> None:
    assert varied(name, key) == values


def test_prompts_are_chosen_and_mixed_in_every_way() -> None:
    found = {name for cell in cells("ablations/selection") for name in cell.evaluations}
    assert found == {"top1", "random", "best-single", "fused", "gated", "rerank"}


def test_retrieval_and_lora_are_combined_with_spt() -> None:
    kinds = {(cell.settings.kind, cell.settings.rag) for cell in cells("ablations/combinations")}
    assert {("rag", "bm25"), ("lora", None), ("spt", None), ("spt", "bm25"), ("spt", "dense")} <= kinds
    assert {cell.settings.joint for cell in cells("ablations/combinations") if cell.settings.kind == "spt_lora"} == {True, False}  # fmt: skip


def test_the_documentation_lists_every_ablation_with_its_number_of_trainings() -> None:
    text = (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    listed = {row[1]: int(row[2]) for row in re.finditer(r"^\| `([\w-]+)` \| (\d+) \|", text, re.MULTILINE)}
    assert listed == {name.removeprefix("ablations/"): len(cells(name)) for name in NAMES}


def test_a_network_makes_prompts_that_speak_together_and_specialists() -> None:
    found = varied("encoder", "prompts.encoder", "losses.objective")
    assert found == {
        ("none", "mean"),
        ("separate", "mean"),
        ("shared", "mean"),
        ("none", "expected"),
        ("shared", "expected"),
    }
