"""Recipes: what is accepted, what is refused and in which words, and that a recipe survives being written down."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sptune.config import (
    PAPER_EXACT,
    Recipe,
    bundled_recipes,
    dump_recipe,
    find_recipe,
    load_comparison,
    load_recipe,
    parse_recipe,
)
from sptune.errors import RecipeError


def value_of(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def refusal(raw: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw, overrides)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


# What a recipe may say.


def test_nothing_said_is_a_recipe_of_defaults(file: Path):
    file.write_text("# nothing yet\n")
    assert load_recipe(file) == Recipe() == parse_recipe({})


def test_an_empty_section_is_a_section_of_defaults():
    assert parse_recipe({"training": None, "losses": {"fusion": None}}) == Recipe()


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1.e-3", 0.001), (".001", 0.001), ("2E+1", 20.0), ("5", 5.0), ("+.5", 0.5)]
)
def test_numbers_as_people_write_them(file: Path, text: str, value: float):
    file.write_text(f"training: {{prompt_lr: {text}}}")
    assert load_recipe(file).training.prompt_lr == value
    assert parse_recipe({}, [f"training.prompt_lr={text}"]).training.prompt_lr == value


@pytest.mark.parametrize("split", ["1:50", "01:59", "701:750"])
def test_a_range_is_not_a_number_of_seconds(file: Path, split: str):
    """YAML 1.1 reads 1:50 as 110."""
    file.write_text(f"data: {{train: {split}}}")
    assert load_recipe(file).data.train == split
    assert parse_recipe({}, [f"data.train={split}"]).data.train == split


def test_open_ranges_need_no_quotes_in_an_override():
    recipe = parse_recipe({}, ["data.train=51:", "data.validation=:50", "evaluation.split=:"])
    assert (recipe.data.train, recipe.data.validation, recipe.evaluation.split) == ("51:", ":50", ":")


def test_overrides_win_and_may_be_null_lists_or_sections():
    raw = {"training": {"epochs": 3, "max_steps": 9}, "data": {"train": "1:5"}}
    recipe = parse_recipe(
        raw,
        [
            "training.epochs=2",
            "training.max_steps=null",
            "data.train=",
            "template.stops=[bye, END]",
            "losses.fusion={weight: 0}",
        ],
    )
    assert (recipe.training.epochs, recipe.training.max_steps, recipe.data.train) == (2.0, None, None)
    assert recipe.template.stops == ("bye", "END")
    assert recipe.losses.fusion.weight == 0
    assert raw == {"training": {"epochs": 3, "max_steps": 9}, "data": {"train": "1:5"}}, "the caller's own is untouched"


def test_the_last_override_of_a_key_wins():
    assert parse_recipe({}, ["seed=1", "seed=2"]).seed == 2


def test_an_override_may_hold_an_equals_sign():
    assert parse_recipe({}, ["data.path=a=b.txt"]).data.path == "a=b.txt"


def test_an_override_may_begin_a_section_that_is_empty_in_the_file(file: Path):
    file.write_text("training:\n")
    assert load_recipe(file, ["training.epochs=2"]).training.epochs == 2


def test_yaml_merge_keys_work(file: Path):
    file.write_text("losses:\n  selection: &w {weight: 0.7}\n  contrastive: {<<: *w, threshold: 30}\n")
    losses = load_recipe(file).losses
    assert (losses.contrastive.weight, losses.contrastive.threshold) == (0.7, 30)


def test_run_folder_and_what_is_run():
    assert parse_recipe({"name": "bees"}).folder == Path("runs/bees")
    assert parse_recipe({"name": "bees", "output": "elsewhere/x"}).folder == Path("elsewhere/x")
    assert not parse_recipe({}).validates
    assert not parse_recipe({}).evaluates
    assert parse_recipe({}, ["data.validation=1:2"]).validates
    assert parse_recipe({}, ["data.validation_path=x"]).validates
    assert parse_recipe({}, ["evaluation.split=1:2"]).evaluates
    assert parse_recipe({}, ["evaluation.path=x"]).evaluates


# What it may not say.


def test_every_mistake_is_reported_at_once():
    text = refusal(
        {
            "trainin": {"epochs": 1},
            "training": {"epoch": 1, "prompt_lr": "fast", "early_stopping": 3},
            "template": {"kind": "jinja"},
            "losses": 5,
            "data": {"train": "5:3", "validation": "x"},
            "prompts": {"init": "file", "file": 7},
        },
        "nonsense",
        "losses.update=all",
        "data.path=[",
        "name=a b",
    )
    lines = text.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == ["command line: 4 mistakes", "recipe: 8 mistakes"]
    faults = [line for line in lines if line.startswith("  ")]
    for wanted in (
        "'nonsense': an override has the form key=value",
        "losses.update: losses is 5, not a section",
        "'data.path=[': the value is not valid YAML",
        "name: ",
        "data.train: an empty range",
        "data.validation: write FIRST:LAST",
        "prompts.file: ",
        "losses: a section with keys",
        "training.prompt_lr: ",
        "training.epoch: unknown key; did you mean training.epochs?",
        "trainin: unknown key; did you mean training?",
        "template.file: missing",
    ):
        assert len([fault for fault in faults if fault.startswith(f"  {wanted}")]) == 1, (wanted, text)
    assert len(faults) == 12, text


def test_a_combination_is_not_blamed_for_a_key_that_is_wrong_already():
    """`prompts.file: missing` and `set data.validation` would only confuse beside the mistakes that cause them."""
    text = refusal(
        {"prompts": {"init": "file", "file": 7}, "training": {"early_stopping": 1}, "data": {"validation": 5}}
    )
    assert "missing" not in text
    assert "early_stopping" not in text
    assert text.startswith("recipe: 2 mistakes")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("training.promt_lr", "training.prompt_lr"),
        ("training.gradient_acumulation", "training.gradient_accumulation"),
        ("losses.selection.wieght", "losses.selection.weight"),
        ("paper_exct", "paper_exact"),
        ("epochs", "training.epochs"),
        ("seeed", "seed"),
        ("evaluate.split", "evaluation"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_known_one(key: str, near: str):
    assert f"did you mean {near}" in refusal({}, f"{key}=1")


def test_a_combination_that_an_override_makes_is_the_command_lines():
    """The file alone is good, so it is not to blame."""
    text = refusal({"template": {"kind": "chat"}}, "template.kind=jinja")
    assert (
        text == "command line: 1 mistake\n  template.file: missing; template.kind=jinja needs the path of a Jinja file"
    )


def test_a_key_like_no_other_gets_no_suggestion():
    assert refusal({}, "zzzzzzzzzz=1") == "command line: 1 mistake\n  zzzzzzzzzz: unknown key"


@pytest.mark.parametrize(
    "override",
    [
        "prompts.count=0",
        "prompts.count=-1",
        "prompts.count=257",
        "prompts.count=2.5",
        "prompts.count=four",
        "prompts.length=0",
        "prompts.length=100000",
        "prompts.init=magic",
        "training.prompt_lr=0",
        "training.prompt_lr=-1e-3",
        "training.prompt_lr=.inf",
        "training.prompt_lr=.nan",
        "training.prompt_lr=null",
        "training.prompt_lr=1e39",
        "training.epochs=0",
        "training.max_steps=0",
        "training.warmup=1",
        "training.batch_tokens=1",
        "training.gradient_accumulation=0",
        "training.scheduler=exponential",
        "training.report_to=tensorboard",
        "losses.selection.weight=-0.1",
        "losses.selection.teacher_temperature=0",
        "losses.contrastive.threshold=101",
        "losses.contrastive.threshold=.nan",
        "losses.responsibility_anneal=1.1",
        "losses.objective=median",
        "losses.gate_temperature=0",
        "losses.uniform_share=1.1",
        "losses.balance_weight=-1",
        "losses.selection.kind=cosine",
        "retriever.input=response",
        "retriever.half_life=0",
        "retriever.half_life=1e7",
        "retriever.whiten=0",
        "retriever.whiten=true",
        "retriever.keys=3",
        "training.shared=1",
        "training.shared=-0.1",
        "training.starts=0",
        "training.fork_noise=-0.1",
        "template.max_length=1",
        "template.stops=[END, 2]",
        "data.train=50",
        "data.train=0:5",
        "data.train=5:3",
        "data.train=a:b",
        "data.train=-1:3",
        "data.path=",
        "data.on_error=ignore",
        "model.dtype=int8",
        "seed=-1",
        "seed=4294967296",
        "name=../up",
        "name=''",
        "retriever.centre=perhaps",
        "evaluation.num_beams=0",
        'paper_exact="true"',
    ],
)
def test_a_wrong_value_is_refused_by_key_and_value(override: str):
    key = override.partition("=")[0]
    text = refusal({}, override)
    assert text.startswith("command line: 1 mistake\n")
    assert f"\n  {key}" in text
    assert "(got " in text


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ({"template": {"max_length": 80, "reserve": 64}}, "template.max_length: 80 leaves 8 tokens"),
        ({"prompts": {"length": 1024}}, "raise it to 1104 or more"),
        ({"template": {"kind": "jinja"}}, "template.file: missing"),
        ({"prompts": {"init": "text"}}, "prompts.text: missing"),
        ({"prompts": {"init": "text", "text": "  "}}, "prompts.text: missing"),
        ({"prompts": {"init": "file"}}, "prompts.file: missing"),
        ({"losses": {"contrastive": {"similarity": "encoder"}}}, "losses.contrastive.encoder: missing"),
        ({"losses": {"llm_weight": 0, "fusion": {"weight": 0}}}, "trains no prompt"),
        ({"training": {"early_stopping": 2}}, "needs validation dialogues"),
        ({"template": {"file": "my.jinja"}}, "template.file: belongs to template.kind=jinja, which is paper"),
        ({"prompts": {"text": "I sail."}}, "prompts.text: belongs to prompts.init=text, which is vocabulary"),
        ({"prompts": {"file": "runs/a", "init": "kmeans"}}, "prompts.file: belongs to prompts.init=file"),
        ({"losses": {"contrastive": {"encoder": "enc"}}}, "losses.contrastive.encoder: belongs to similarity=encoder"),
        ({"losses": {"llm_weight": 0, "objective": "mixture"}}, "losses.objective: mixture is a form of L_LLM"),
        ({"losses": {"llm_weight": 0, "update": "responsibility"}}, "losses.update: responsibility is a form of L_LLM"),
        ({"losses": {"shuffle_teachers": True, "selection": {"weight": 0}}}, "there is no teacher to shuffle"),
        (
            {"losses": {"shuffle_teachers": True, "fusion": {"kind": "score_weighted_logits"}}},
            "losses.shuffle_teachers: the score-weighted fusion teaches",
        ),
        ({"evaluation": {"num_beams": 2, "decoding": "fused"}}, "evaluation.num_beams: beams follow one prompt"),
        ({"evaluation": {"rerank": {"prior": "none"}}}, "evaluation.rerank.prior_weight: belongs to a prior"),
        ({"retriever": {"kind": "identity", "hidden": 64}}, "retriever.hidden"),
        ({"retriever": {"kind": "transformer", "hidden": 64}}, "retriever.hidden"),
        ({"retriever": {"input": "hidden"}}, "set retriever.keys=clusters or random"),
        ({"retriever": {"kind": "transformer", "input": "recent"}}, "retriever.kind=transformer reads all tokens"),
        ({"retriever": {"kind": "transformer", "whiten": 8}}, "leave input and whiten out, or choose linear"),
        ({"retriever": {"kind": "transformer", "keys": "clusters"}}, "set retriever.keys=random"),
        ({"losses": {"objective": "mixture", "update": "responsibility"}}, "losses.update: responsibility belongs to"),
        ({"losses": {"balance_weight": 0.1}}, "losses.balance_weight: belongs to losses.objective=expected or mixture"),
        ({"losses": {"objective": "mixture", "uniform_share": 0.1}}, "losses.uniform_share: belongs to"),
        (
            {"losses": {"selection": {"kind": "regret", "teacher_noise": 0.1}}},
            "losses.selection.teacher_noise: belongs to",
        ),
        ({"training": {"shared": 0.5, "fork_noise": 0}}, "training.fork_noise: 0 leaves prompts"),
        ({"training": {"shared": 0.5, "starts": 5}}, "training.starts: 5 is more than prompts.count=4"),
        ({"training": {"starts": 2}}, "training.starts: belongs to training.shared"),
        ({"prompts": {"encoder_hidden": 64}}, "prompts.encoder_hidden: belongs to an encoder"),
        (
            {"prompts": {"encoder": "shared", "init": "kmeans"}},
            "prompts.init: kmeans is lost with prompts.encoder=shared",
        ),
        (
            {"prompts": {"encoder": "separate"}, "training": {"shared": 0.5}},
            "training.shared: belongs to prompts that are trained themselves, not by prompts.encoder=separate",
        ),
        (
            {"training": {"shared": 0.5, "keep_starts": True}},
            "training.keep_starts: asks for several starts that divide",
        ),
        (
            {"training": {"shared": 0.5, "starts": 3, "keep_starts": True}},
            "divide prompts.count=4; training.starts is 3",
        ),
    ],
)
def test_impossible_combinations(raw: dict[str, Any], wanted: str):
    text = refusal(raw)
    assert wanted in text
    assert text.startswith("recipe: 1 mistake\n"), text


@pytest.mark.parametrize(
    "overrides",
    [
        ["retriever.input=hidden", "retriever.keys=random", "retriever.whiten=64"],
        ["retriever.input=recent", "retriever.half_life=1e6", "retriever.activation=none"],
        ["retriever.kind=transformer", "retriever.keys=random", "retriever.half_life=3"],
        ["losses.objective=expected", "losses.uniform_share=0.2", "losses.balance_weight=0.1"],
        ["losses.selection.kind=regret", "losses.shuffle_teachers=true"],
        ["training.shared=0.5", "training.fork_noise=0", "losses.objective=mixture", "retriever.keys=clusters"],
        ["training.shared=0.5", "training.fork_noise=0", "prompts.count=1"],
        ["retriever.centre=false", "retriever.whiten=64"],
    ],
)
def test_possible_combinations(overrides: list[str]):
    assert parse_recipe({}, overrides)


def test_the_suggested_max_length_is_enough():
    assert parse_recipe({"prompts": {"length": 1024}, "template": {"max_length": 1104}}).prompts.length == 1024


@pytest.mark.parametrize("value", ["50", "[1, 5]", "1-5", "1:2:3", "{a: 1}", "true"])
def test_what_is_no_range_is_told_how_to_write_one(value: str):
    assert "data.train: write FIRST:LAST, counted from 1, both included, as in 701:750" in refusal(
        {}, f"data.train={value}"
    )


def test_two_mistakes_in_one_list_are_two_mistakes():
    assert refusal({}, "template.stops=[1, 2]").startswith("command line: 2 mistakes\n  template.stops.0: ")


def test_a_long_wrong_value_is_shortened():
    assert max(map(len, refusal({"seed": ["x" * 40] * 40}).splitlines())) < 200


# Files.


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"- a\n- b\n", "this is a list"),
        (b"just words", "this is a str"),
        (b"5", "this is a int"),
        (b"training: {epochs: 1", "not readable as YAML"),
        (b"training:\n\tepochs: 1", "not readable as YAML"),
        (b"a: b: c", "not readable as YAML"),
        (b"\x00\x01\x02binary", "not readable as YAML"),
        (b"name: caf\xe9", "not readable as YAML"),
        (b"name: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        (b"training: &t\n  epochs: *t", "not readable as YAML"),
        (b"[" * 5000, "not readable as YAML"),
        (b"seed: 1\nname: x\nseed: 2", "the key 'seed' is there twice"),
        (b"training: {epochs: 1}\ntraining: {seed: 2}", "the key 'training' is there twice"),
        (b"seed: " + b"9" * 5000, "not readable as YAML"),
    ],
)
def test_what_is_no_recipe_is_refused_by_file(file: Path, content: bytes, wanted: str):
    file.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert wanted in str(caught.value)
    assert len(str(caught.value)) < 500


def test_mistakes_name_the_file(file: Path):
    file.write_text("seed: many")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: 1 mistake\n  seed: .*got 'many'"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("quikstart", "did you mean quickstart?"),
        ("recipes/quikstart.yaml", "did you mean quickstart?"),
        ("paper/opt-125", "did you mean paper/opt-125m?"),
        ("/nowhere/at/all.yaml", "bundled recipes: "),
        (".", "no such recipe file"),
    ],
)
def test_an_unknown_recipe_is_answered_with_the_nearest_bundled_one(source: str, wanted: str):
    with pytest.raises(RecipeError, match="no such recipe file") as caught:
        load_recipe(source)
    assert wanted in str(caught.value)


def test_a_file_comes_before_a_bundled_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart") == bundled_recipes()["quickstart"]
    Path("quickstart").write_text("name: mine")
    assert load_recipe("quickstart").name == "mine"


def test_a_name_that_is_no_recipe_is_answered_with_those_of_its_kind():
    with pytest.raises(RecipeError, match="bundled recipes: best, ") as caught:
        load_recipe("nothing-like-it-at-all")
    assert "compare/" not in str(caught.value)
    assert "ablations/" not in str(caught.value)
    with pytest.raises(RecipeError, match="bundled comparisons: ablations/combinations, ") as caught:
        load_comparison("nothing-like-it-at-all")
    assert "quickstart" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ['{"messages": []}\n{"messages": []}\n', '{"messages": []}\n', "1 your persona: i sail .\n"]
)
def test_a_file_of_dialogues_in_the_place_of_a_recipe_is_told_how_to_be_trained_on(tmp_path: Path, content: str):
    path = tmp_path / "talks.jsonl"
    path.write_text(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert f"train on it with `sptune train quickstart data.path={path}`" in str(caught.value)


# The published settings.


def test_paper_exact_sets_exactly_its_list():
    exact, plain = parse_recipe({"paper_exact": True}), Recipe()
    assert {key: value_of(exact, key) for key in PAPER_EXACT} == PAPER_EXACT
    changed = {key for key in flat(exact.model_dump()) if value_of(exact, key) != value_of(plain, key)}
    assert changed <= {*PAPER_EXACT, "paper_exact"}
    assert {"losses.fusion.kind", "template.learn_stop", "retriever.centre", "training.prompt_lr"} <= changed


def test_what_the_recipe_says_itself_wins_over_paper_exact(file: Path):
    file.write_text("paper_exact: true\nlosses: {selection: {weight: 1.0}}\nretriever: {}\n")
    recipe = load_recipe(file, ["retriever.centre=true"])
    assert recipe.losses.selection.weight == 1.0
    assert recipe.retriever.centre is True
    assert recipe.losses.contrastive.weight == 0.4


def test_paper_exact_may_be_an_override():
    assert parse_recipe({}, ["paper_exact=true"]) == parse_recipe({"paper_exact": True})


def test_paper_exact_does_not_hide_a_section_that_is_wrong():
    assert "template: a section with keys" in refusal({"paper_exact": True, "template": "paper"})


# Written down and read again.


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["paper_exact=true"],
        ["data.train=1:50", "data.validation=51:59", "training.prompt_lr=1e-5", "template.stops=[]"],
        ["name='1e3'", "output='2024-01-01'", "data.path='12:30'", "model.revision='0x10'", "model.base='null'"],
    ],
)
def test_a_dumped_recipe_is_the_same_recipe(file: Path, overrides: list[str]):
    recipe = parse_recipe({}, overrides)
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(file) == recipe
    assert flat(recipe.model_dump()).keys() == flat(yaml.safe_load(file.read_text())).keys(), "every key is written out"


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1)


@settings(deadline=None)
@given(path=texts, stops=st.lists(texts), rate=st.floats(min_value=1e-30, max_value=1e6))
def test_any_text_and_number_survives_being_dumped(path: str, stops: list[str], rate: float):
    recipe = parse_recipe({"data": {"path": path}, "template": {"stops": stops}, "training": {"prompt_lr": rate}})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(file) == recipe
