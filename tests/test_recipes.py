"""The bundled recipes, and docs/recipes.md, which must tell every key of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic.fields import FieldInfo

from sptune.config import PAPER_EXACT, Recipe, Section, bundled_recipes, dump_recipe, load_recipe, parse_recipe
from sptune.data.load import load_dialogues

ROOT = Path(__file__).parents[1]
NAMES = ("quickstart", "convai2-smollm2", "paper/opt-125m", "paper/opt-1.3b", "paper/opt-2.7b", "paper/llama2-7b")
BASES = {
    "paper/opt-125m": "facebook/opt-125m",
    "paper/opt-1.3b": "facebook/opt-1.3b",
    "paper/opt-2.7b": "facebook/opt-2.7b",
    "paper/llama2-7b": "meta-llama/Llama-2-7b-hf",
}
# comparisons of methods, which tests/config and tests/experiments check, lie among the recipes
TRAINING = [name for name, file in bundled_recipes().items() if "methods" not in yaml.safe_load(file.read_text())]


def test_these_recipes_are_bundled():
    assert set(NAMES) <= bundled_recipes().keys()
    assert {
        str(path.relative_to(ROOT / "recipes").with_suffix("")) for path in (ROOT / "recipes").rglob("*.yaml")
    } == set(bundled_recipes())


@pytest.mark.parametrize("name", TRAINING)
def test_every_recipe_is_valid_and_survives_being_dumped(name: str, tmp_path: Path):
    recipe = load_recipe(name)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_their_run_folders_differ():
    assert len({load_recipe(name).folder for name in TRAINING}) == len(TRAINING)


@pytest.mark.parametrize("name", bundled_recipes())
def test_every_recipe_begins_with_what_it_is_for(name: str):
    first = bundled_recipes()[name].read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 30


@pytest.mark.parametrize("name", TRAINING)
def test_every_recipe_validates_and_says_what_it_trains_on(name: str):
    recipe = load_recipe(name)
    assert recipe.validates
    assert recipe.data.path


def test_quickstart_runs_on_what_is_bundled():
    recipe = load_recipe("quickstart")
    assert recipe.model.base == "smollm2-135m"
    for path in (recipe.data.path, recipe.data.validation_path, recipe.evaluation.path):
        assert path is not None
        assert load_dialogues(path)


def test_convai2_has_the_issues_ranges():
    recipe = load_recipe("convai2-smollm2", ["data.path=elsewhere.txt"])
    assert (recipe.data.train, recipe.data.validation, recipe.evaluation.split) == ("1:700", "701:750", "751:800")
    assert (recipe.data.path, recipe.prompts.count) == ("elsewhere.txt", 4)


@pytest.mark.parametrize("name", BASES)
def test_the_papers_recipes_have_the_published_settings(name: str):
    recipe = load_recipe(name)
    own = flat(yaml.safe_load(bundled_recipes()[name].read_text()))
    published = flat(recipe.model_dump())
    assert recipe.paper_exact
    assert recipe.model.base == BASES[name]
    assert all(published[key] == value for key, value in PAPER_EXACT.items() if key not in own)
    llama = name.endswith("llama2-7b")
    assert recipe.prompts.length == (1 if llama else 8)
    assert recipe.losses.selection.weight == recipe.losses.contrastive.weight == (1.0 if llama else 0.4)
    assert (recipe.prompts.count, recipe.losses.fusion.weight, recipe.training.epochs) == (4, 1.0, 1.0)
    assert (recipe.training.prompt_lr, recipe.template.max_length, recipe.retriever.centre) == (1e-4, 512, False)


# docs/recipes.md


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def fields(section: type[Section] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a recipe that holds a value."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def cell(value: Any) -> str:
    """A value as the tables write it: YAML."""
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
    return f"`{text}`"


def choices(field: FieldInfo) -> str:
    """The values of a key with a few fixed ones, as the tables write them."""
    words = [word for word in get_args(field.annotation) if isinstance(word, str)]
    return ", ".join(f"`{word}`" for word in words)


def rows(title: str) -> dict[str, list[str]]:
    """The cells of the table under a heading of docs/recipes.md, by the key in the first one."""
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    part = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return {cells[0].strip().strip("`"): [one.strip() for one in cells[1:]] for cells in lines}


def expected(key: str, field: FieldInfo) -> list[str]:
    assert field.description, f"{key}: say in sptune.config what it means"
    options = choices(field)
    return [cell(field.default), f"{field.description} ({options})" if options else field.description]


@pytest.mark.parametrize(("key", "field"), fields(), ids=[key for key, _ in fields()])
def test_every_key_is_in_the_documentation_with_default_and_meaning(key: str, field: FieldInfo):
    title = key.split(".", maxsplit=1)[0] if "." in key else "The run"
    assert rows(title).get(key) == expected(key, field), f"expected | `{key}` | {' | '.join(expected(key, field))} |"


def test_the_documentation_has_no_key_that_is_none():
    known = {key for key, _ in fields()}
    for title in ("The run", *(key.split(".")[0] for key in known if "." in key)):
        assert rows(title).keys() <= known, title


def test_the_documentation_lists_paper_exact_line_by_line():
    listed = rows("What `paper_exact: true` changes")
    assert {key: cells[0] for key, cells in listed.items()} == {key: cell(value) for key, value in PAPER_EXACT.items()}
    assert all(len(cells) == 2 and cells[1] for cells in listed.values()), "each with its source"


def test_the_examples_of_the_documentation_are_valid():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    blocks = [block.partition("\n```")[0] for block in text.split("```yaml\n")[1:]]
    assert blocks
    for block in blocks:
        assert parse_recipe(yaml.safe_load(block))
