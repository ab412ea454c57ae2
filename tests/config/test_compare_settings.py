"""Settings of a comparison: what is accepted, what is refused and in which words, and the recipe that a method gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sptune.config import (
    ComparisonSettings,
    MethodSettings,
    Section,
    TuningSettings,
    dump_comparison,
    load_comparison,
    load_recipe,
    method_recipe,
    parse_comparison,
)
from sptune.config.compare import COMMON_KEYS, KIND_KEYS, flat_keys
from sptune.config.strict_yaml import read_yaml
from sptune.errors import RecipeError

PT = {"kind": "spt", "set": {"prompts.count": 1}}


def comparison(methods: dict[str, Any], *overrides: str, **more: Any) -> ComparisonSettings:
    return parse_comparison({"methods": methods, **more}, overrides)


def refusal(methods: Any, *overrides: str, **more: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        comparison(methods, *overrides, **more)
    return str(caught.value)


# What a comparison may say.


def test_sections_and_dotted_keys_are_the_same():
    nested = comparison({"pt": {"kind": "spt", "set": {"prompts": {"count": 1, "length": 2}}}})
    assert nested == comparison({"pt": {"kind": "spt", "set": {"prompts.count": 1, "prompts.length": 2}}})
    assert nested.methods["pt"].set == {"prompts.count": 1, "prompts.length": 2}
    assert flat_keys({"a": {"b": {"c": 1}}, "d": None}) == {"a.b.c": 1, "d": None}


def test_overrides_reach_the_comparison_its_methods_and_the_shared_recipe():
    settings = comparison(
        {"pt": PT, "lora": {"kind": "lora"}},
        "seeds=[3]",
        "methods.lora.rank=4",
        "methods.pt.set.prompts.length=2",
        "methods.pt.rates=[1e-2, 1.]",
        "methods.lora.rates=[1e-3, .1]",
        "data.train=1:9",
        "set.training.epochs=2",
        set={"training.epochs": 3, "data.path": "a.txt"},
    )
    assert settings.seeds == (3,)
    assert settings.methods["lora"].rank == 4
    assert settings.methods["pt"].set == {"prompts.count": 1, "prompts.length": 2}
    assert settings.methods["pt"].rates == (0.01, 1.0)
    assert settings.set == {"training.epochs": 2, "data.path": "a.txt", "data.train": "1:9"}


def test_the_folder():
    assert comparison({"pt": PT}, name="bees").folder == Path("runs/compare/bees")
    assert comparison({"pt": PT}, output="here").folder == Path("here")


def test_it_survives_being_dumped(tmp_path: Path):
    settings = comparison({"pt": PT, "lora": {"kind": "lora", "grid": {"rank": [2, 4]}}}, reference="pt")
    (tmp_path / "c.yaml").write_text(dump_comparison(settings))
    assert load_comparison(tmp_path / "c.yaml") == settings


@pytest.mark.parametrize("kind", KIND_KEYS)
def test_a_dumped_method_has_the_keys_of_its_kind_alone(kind: str):
    dumped = MethodSettings(kind=kind).model_dump()  # type: ignore[arg-type]
    assert dumped.keys() == {*COMMON_KEYS, *KIND_KEYS[kind]}
    assert MethodSettings.model_validate(dumped) == MethodSettings(kind=kind)  # type: ignore[arg-type]


def test_every_key_has_a_description_and_every_kind_its_own():
    for section in (ComparisonSettings, MethodSettings):
        for name, field in section.model_fields.items():
            assert field.description or name == "tuning", name
    of_kinds = {key for keys in KIND_KEYS.values() for key in keys}
    assert of_kinds | set(COMMON_KEYS) == MethodSettings.model_fields.keys()


def test_decodings_and_seeds_of_a_method():
    settings = comparison(
        {"a": PT, "b": {"kind": "spt", "decodings": ["gated"], "seeds": [7]}}, decodings=["fused"], controls=["random"]
    )
    assert settings.decodings_of(settings.methods["a"]) == ("top1", "random", "fused")
    assert settings.decodings_of(settings.methods["b"]) == ("top1", "random", "gated")
    assert [settings.seeds_of(one) for one in settings.methods.values()] == [(0, 1, 2), (7,)]


# What is refused: everything at once, in words.


@pytest.mark.parametrize(
    ("methods", "more", "message"),
    [
        ({}, {}, "methods: none"),
        ({"a": {}}, {}, "methods.a.kind: missing"),
        ({"a": {"kind": "spd"}}, {}, "methods.a.kind: Input should be 'zero_shot'"),
        ({"a": {"kind": "lora", "ranks": 3}}, {}, "methods.a.ranks: unknown key; did you mean methods.a.rank?"),
        ({"a": {"kind": "lora", "examples": 3}}, {}, "methods.a.examples: not a key of kind lora; it has rank, alpha"),
        ({"a": {"kind": "full", "rank": 3}}, {}, "methods.a.rank: not a key of kind full; it has none of its own"),
        ({"a": {"kind": "zero_shot", "rates": [1]}}, {}, "methods.a.rates: kind zero_shot trains nothing"),
        ({"a": {"kind": "spt", "rates": [1, 1.0]}}, {}, "methods.a.rates: a rate is there twice"),
        ({"a": {"kind": "spt", "rates": [0]}}, {}, "methods.a.rates.0: Input should be greater than 0"),
        ({"a": {"kind": "spt", "grid": {"seed": [1]}}}, {}, "methods.a.grid.seed: cannot be varied"),
        ({"a": {"kind": "spt", "grid": {"prompts.count": []}}}, {}, "methods.a.grid.prompts.count: List should have"),
        (
            {"a": {"kind": "spt", "grid": {"prompts.count": [1]}, "set": {"prompts.count": 2}}},
            {},
            "methods.a.grid.prompts.count: is in `set` too",
        ),
        (
            {"a": {"kind": "lora", "grid": {"training.prompt_lr": [1e-3, 1e-2]}}},
            {},
            "methods.a: training.prompt_lr in `set` or `grid` has no effect here; give the learning rates as `rates`",
        ),
        (
            {"a": {**PT, "rates": [0.1], "set": {"training.prompt_lr": 1e-2}}},
            {},
            "methods.a: training.prompt_lr in `set`",
        ),
        (
            {"a": {"kind": "lora", "grid": {"prompts.count": [2, 4]}}},
            {},
            "methods.a: prompts.count in `set` or `grid` has no effect on kind lora",
        ),
        ({"a": {"kind": "rag", "set": {"training.epochs": 2}}}, {}, "methods.a: training.epochs in `set` or `grid`"),
        ({"a": {"kind": "spt", "set": {"seed": 1}}}, {}, "methods.a.set.seed: each method is trained with every one"),
        ({"a/b": PT}, {}, "methods: 'a/b' is no name"),
        ({"a": PT}, {"seeds": [1, 1]}, "seeds: a seed is there twice"),
        ({"a": PT}, {"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"a": PT}, {"reference": "b"}, "reference: 'b' is none of the methods a"),
        ({"a": PT}, {"ranking": ["top2"]}, "ranking: 'top2' is none of the decodings best-single, random, top1"),
        ({"a": PT}, {"generation": ["fused"]}, "generation: 'fused' is none of the decodings"),
        ({"a": PT}, {"decodings": ["random"]}, "decodings: random is a control"),
        ({"a": PT}, {"tuning": {"dialogs": 3}}, "tuning.dialogs: unknown key; did you mean tuning.dialogues?"),
        ({"a": PT}, {"sed": [1]}, "sed: unknown key; did you mean seeds?"),
        ({"a": {"kind": "spt", "set": {"a.b": 1, "a": {"b": 2}}}}, {}, "methods.a.set.a.b is there twice"),
        ({"a": 3}, {}, "methods.a: a section with keys"),
        (3, {}, "methods: Input should be a valid dictionary"),
    ],
)
def test_mistakes(methods: Any, more: dict[str, Any], message: str):
    assert message in refusal(methods, **more)


def test_all_mistakes_are_reported_together():
    text = refusal({"a": {"kind": "lora", "rang": 2}, "b": {}}, "seeds", "tuning.epochs=0", reference="c")
    assert text.startswith("command line: 2 mistakes\n")
    assert "\ncomparison: 2 mistakes\n" in text
    for part in ("'seeds': an override has the form", "tuning.epochs", "methods.a.rang", "methods.b.kind: missing"):
        assert part in text


def test_unequal_tuning_is_refused_unless_allowed():
    methods = {"a": {"kind": "spt", "rates": [1, 2]}, "b": {"kind": "lora", "rates": [1]}, "c": {"kind": "zero_shot"}}
    assert "(a 2, b 1)" in refusal(methods)
    assert comparison(methods, "tuning.unequal=true")
    methods["b"] = {"kind": "lora", "rates": [1, 3]}
    assert comparison(methods), "what is not trained has no rates"


def test_a_training_recipe_is_no_comparison_and_the_reverse(tmp_path: Path):
    with pytest.raises(
        RecipeError, match=r"is no comparison: it has no `methods`; to train this recipe: `sptune train quickstart`"
    ):
        load_comparison("quickstart")
    path = tmp_path / "c.yaml"
    path.write_text("methods: {pt: {kind: spt}}")
    with pytest.raises(
        RecipeError, match=r"is a comparison of methods, not a recipe to train; run it with `sptune compare"
    ):
        load_recipe(path)


# The recipe of a method.


@pytest.fixture
def shared(tmp_path: Path) -> str:
    path = tmp_path / "shared.yaml"
    path.write_text("{data: {path: a.txt}, training: {epochs: 4, prompt_lr: 1, log_every: 7}, prompts: {length: 3}}")
    return str(path)


def test_the_order_of_changes(shared: str):
    """Shared recipe, comparison, method, grid: the later wins."""
    settings = comparison(
        {"m": {"kind": "spt", "set": {"prompts.count": 5, "prompts.length": 5}}},
        recipe=shared,
        set={"prompts.length": 4, "losses.llm_weight": 2},
    )
    recipe = method_recipe(settings, settings.methods["m"], changes={"prompts.count": 6}, seed=9)
    assert (recipe.prompts.count, recipe.prompts.length, recipe.losses.llm_weight, recipe.seed) == (6, 5, 2, 9)
    assert (recipe.data.path, recipe.training.epochs) == ("a.txt", 4)


def test_a_methods_own_recipe_brings_its_sections_but_not_its_data_and_budget(shared: str, tmp_path: Path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "{data: {path: b.txt}, training: {epochs: 1, max_steps: 2, prompt_lr: 3}, losses: {llm_weight: 5},"
        " evaluation: {max_new_tokens: 4}, template: {max_length: 99}}"
    )
    settings = comparison({"m": {"kind": "spt", "recipe": str(own)}}, recipe=shared)
    recipe = method_recipe(settings, settings.methods["m"], changes={}, seed=0)
    assert (recipe.losses.llm_weight, recipe.training.prompt_lr) == (5, 3)
    assert (recipe.training.log_every, recipe.prompts.length) == (5, 8), "whole sections, defaults included"
    assert (recipe.data.path, recipe.training.epochs, recipe.training.max_steps) == ("a.txt", 4, None)
    assert (recipe.evaluation.max_new_tokens, recipe.template.max_length) == (32, 512)


def test_paper_exact_may_be_set_by_a_method(shared: str):
    settings = comparison({"m": {"kind": "spt", "set": {"paper_exact": True}}}, recipe=shared)
    recipe = method_recipe(settings, settings.methods["m"], changes={}, seed=0)
    assert (recipe.losses.fusion.kind, recipe.retriever.centre) == ("score_weighted_logits", False)
    assert recipe.training.prompt_lr == 1, "what the recipe says itself wins"


def test_a_change_that_cannot_be_is_a_mistake(shared: str):
    settings = comparison({"m": {"kind": "spt", "set": {"prompts.count.x": 1}}}, recipe=shared)
    with pytest.raises(RecipeError, match=r"prompts\.count"):
        method_recipe(settings, settings.methods["m"], changes={}, seed=0)


# docs/compare.md

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("section", [ComparisonSettings, MethodSettings, TuningSettings])
def test_every_key_is_in_the_documentation_with_default_and_meaning(section: type[Section]):
    for name, field in section.model_fields.items():
        row = f"| `{name}` | {'' if field.is_required() else written(field.default)} | {field.description} |"
        assert row in PAGE, f"expected {row}"


def written(default: Any) -> str:
    """A default as the tables write it: YAML."""
    value = default.model_dump() if isinstance(default, Section) else default
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True)
    return f"`{text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


def test_every_kind_is_in_the_documentation_with_its_keys():
    table = PAGE.partition("| kind | what it is |")[2].partition("\n\n")[0]
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    assert rows.keys() == KIND_KEYS.keys()
    for kind, keys in KIND_KEYS.items():
        assert rows[kind].rpartition(" | ")[2].strip(" |") == ", ".join(f"`{key}`" for key in keys)


def test_the_example_of_the_documentation_is_valid():
    (block,) = PAGE.split("```yaml\n")[1:]
    settings = parse_comparison(read_yaml(block.partition("\n```")[0]))
    assert settings.methods["k"].grid == {"prompts.count": [2, 4, 8]}
