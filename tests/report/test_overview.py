"""What a report says was run: the retriever and the losses, in words."""

from __future__ import annotations

import pytest

from sptune.config import parse_recipe
from sptune.report.overview import _losses, _recipe_rows, _retriever


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ([], "linear, softplus, centred, reads mean embeddings, compares with the prompts"),
        (
            ["retriever.input=recent", "retriever.half_life=2.5", "retriever.centre=false", "retriever.keys=random"],
            "linear, softplus, not centred, reads recent tokens (half-life 2.5), compares with keys of its own",
        ),
        (
            ["retriever.input=hidden", "retriever.whiten=64", "retriever.keys=clusters", "retriever.activation=none"],
            "linear, none, centred, reads hidden states whitened to 64 components, compares with keys of its own, from clusters",
        ),
        (["retriever.kind=transformer"], "transformer, softplus, centred, compares with the prompts"),
    ],
)
def test_the_retriever_is_told_by_what_it_reads_and_compares_with(overrides: list[str], wanted: str) -> None:
    assert _retriever(parse_recipe({}, overrides).retriever) == wanted


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ([], "1 LLM + 0.4 selection (τ = 1, 1) + "),
        (["losses.objective=mixture", "losses.balance_weight=0.1"], "1 LLM (mixture, gate τ = 0.1) + 0.4 selection"),
        (["losses.objective=mixture", "losses.balance_weight=0.1"], " + 0.1 balance; update: all"),
        (
            ["losses.objective=expected", "losses.uniform_share=0.2"],
            "1 LLM (expected, gate τ = 0.1, 20% spread evenly) + ",
        ),
        (["losses.selection.kind=regret", "losses.selection.student_temperature=0.3"], "0.4 regret (τ = 0.3)"),
        (["losses.shuffle_teachers=true"], "; shuffled teachers"),
    ],
)
def test_the_losses_are_told_with_their_objective(overrides: list[str], wanted: str) -> None:
    assert wanted in _losses(parse_recipe({}, overrides).losses)


@pytest.mark.parametrize(("overrides", "told"), [(["prompts.count=4"], True), (["prompts.count=1"], False)])
def test_a_shared_start_is_told_where_there_is_something_to_share(overrides: list[str], told: bool) -> None:
    rows = str(list(_recipe_rows(parse_recipe({}, ["training.shared=0.6", *overrides]))))
    assert ("the prompts are one for 60% of the steps" in rows) == told
    assert "shared start" not in str(list(_recipe_rows(parse_recipe({}))))
