"""`sptune rerank` from the command line, on candidates written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from invoked import failure, succeeded
from PIL import Image
from typer.testing import CliRunner, Result

from sptune.cli.rerank import rerank
from sptune.errors import DataError, SptError, UsageError
from sptune.evaluation.generation import Generation, chosen_reply, measure
from sptune.evaluation.records import write_records
from sptune.evaluation.rerank import Candidate, RerankWeights, TurnCandidates
from sptune.evaluation.reweigh import weigh, weights_grid, with_similarity


def candidate(text: str, logprob: float, *, prior: float | None = -6.0, agreed: float = 0.0) -> Candidate:
    words = len(text.split())
    return Candidate(text, 0, 1.0, words, words, (logprob,), logprob, logprob, (prior,), agreed, 0.0)


def turn(number: int, *candidates: Candidate) -> TurnCandidates:
    return TurnCandidates("a", number, ("i keep bees .",), "hi", "i keep bees too", 0, (1.0,), 0.0, (1.0,), candidates)


# The likeliest says nothing; mutual information wants the second; the third agrees with the first in most words.
TURNS = [
    turn(
        number,
        candidate("i do not know", -4.0),
        candidate(f"i keep {number} bees", -6.0, prior=-20.0),
        candidate("i do not know you", -6.0, agreed=0.9),
    )
    for number in range(3)
]


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(rerank)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def points(*arguments: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(succeeded(run(*arguments, "--json")).output)
    return found


def error(*arguments: object) -> SptError:
    return failure(run(*arguments))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_records(tmp_path / "candidates.jsonl", TURNS)
    return tmp_path


def test_every_combination_is_chosen_and_measured(folder: Path):
    found = points(folder, "--try", "prior_weight=0,0.5", "--try", "consensus_weight=0,9")
    wanted = [RerankWeights(prior=p, consensus=c) for p in (0.0, 0.5) for c in (0.0, 9.0)]
    assert [point["weights"] for point in found] == [
        {"likelihood": "gated", "length_power": 1.0, "prior": w.prior, "consensus": w.consensus, "persona": 0.0}
        for w in wanted
    ]
    for point, weights in zip(found, wanted, strict=True):
        values = measure([chosen_reply(one, weights) for one in TURNS], profile="paper", seed=None).values
        assert point["values"] == pytest.approx(values)
    assert len({point["values"]["dist1"] for point in found}) > 1  # type: ignore[index]


def test_gains_are_against_the_replies_that_are_given_best_first(folder: Path):
    greedy = [chosen_reply(one, RerankWeights(prior=0.0, consensus=0.0)) for one in TURNS]
    write_records(folder / "greedy.jsonl", greedy)
    tries = ("--try", "prior_weight=0,0.5", "--try", "consensus_weight=0")
    found = points(folder / "candidates.jsonl", *tries, "--against", folder / "greedy.jsonl")
    assert [point["weights"]["prior"] for point in found] == [0.5, 0.0]  # type: ignore[index]
    best, same = (point["gain"] for point in found)
    assert same == 0.0
    assert isinstance(best, float)
    assert best > 0
    table = succeeded(run(folder, *tries, "--against", folder / "greedy.jsonl")).output
    assert "mean gain, %" in table
    assert f"{best:+.1f}" in table
    assert "| against |" in table


def test_the_table_has_a_column_for_each_weight_that_varies_and_the_human_figures(folder: Path):
    found = succeeded(run(folder, "--try", "prior_weight=0,0.5", "--try", "consensus_weight=9")).output
    assert "Replies by weights (likelihood gated, length_power 1, consensus_weight 9, persona_weight 0)" in found
    header, *rows = [line.strip("| ").split(" | ") for line in found.splitlines() if line.startswith("| ")]
    assert header[0] == "prior_weight"
    assert "consensus_weight" not in header
    assert [row[0] for row in rows] == ["0", "0.5", "human"]
    human = measure([chosen_reply(one, RerankWeights()) for one in TURNS], profile="paper").human
    assert rows[-1][header.index("DIST-2")] == f"{human['dist2']:.2f}"


def test_every_choice_of_weights_is_a_step_of_the_progress():
    seen: list[tuple[str, int, int]] = []
    grid = weights_grid({"prior": [0.0, 0.5]})
    list(weigh([TURNS], grid, profile="paper", progress=lambda *step: seen.append(step)))
    assert seen == [("rerank", 0, 2), ("rerank", 1, 2), ("rerank", 2, 2)]


def test_what_the_weights_trade_is_drawn(folder: Path, tmp_path: Path):
    picture = tmp_path / "new" / "trade-off.png"
    run_ = succeeded(run(folder, "--try", "prior_weight=0,0.5", "--plot", picture))
    assert "2 choices of weights" in run_.stderr
    assert Image.open(picture).size[0] > 1000


@pytest.mark.parametrize("name", ["trade-off.svg", "trade-off", "folder.png"])
def test_what_cannot_be_a_picture_is_refused_before_anything_is_measured(folder: Path, name: str):
    (folder / "folder.png").mkdir()
    found = error(folder, "--try", "prior_weight=0,0.5", "--plot", folder / name)
    assert f"--plot: {folder / name} cannot be a picture" in str(found)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda replies: replies[:2], "dialogue 'a', turn 2 is not there"),
        (
            lambda replies: [*replies, replace(replies[0], dialogue="b")],
            "dialogue 'b', turn 0 is there",
        ),
        (
            lambda replies: [replies[0], replace(replies[1], reference="i sail"), replies[2]],
            "dialogue 'a', turn 1 has another gold response there",
        ),
    ],
    ids=["fewer", "more", "other data"],
)
def test_replies_to_other_turns_are_no_base_of_a_gain(
    folder: Path, change: Callable[[list[Generation]], list[Generation]], wanted: str
):
    write_records(folder / "other.jsonl", change([chosen_reply(one, RerankWeights()) for one in TURNS]))
    found = error(folder, "--against", folder / "other.jsonl")
    assert isinstance(found, UsageError)
    assert f"--against: {folder / 'other.jsonl'} is of other turns: {wanted}" in str(found)


def dialogues(*names: str) -> list[TurnCandidates]:
    """The same turns in several dialogues."""
    return [replace(one, dialogue=name) for name in names for one in TURNS]


def test_several_seeds_are_averaged(tmp_path: Path):
    plain, worse = dialogues("a", "b"), dialogues("a", "b")
    worse = [replace(one, candidates=one.candidates[:1]) for one in worse]
    for name, turns in (("plain", plain), ("worse", worse)):
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "candidates.jsonl", turns)
    tries = ("--try", "prior_weight=0.5", "--try", "consensus_weight=0")
    [both], [one], [other] = (
        points(*(tmp_path / name for name in names), *tries) for names in (("plain", "worse"), ("plain",), ("worse",))
    )
    for name, value in both["values"].items():  # type: ignore[attr-defined]
        assert value == pytest.approx((one["values"][name] + other["values"][name]) / 2)  # type: ignore[index]
    assert one["values"] != other["values"]


def test_f1_above_other_replies_has_an_interval_by_dialogue(tmp_path: Path):
    turns = dialogues("a", "b", "c")
    write_records(tmp_path / "candidates.jsonl", turns)
    greedy = [chosen_reply(one, RerankWeights(prior=0.0, consensus=0.0)) for one in turns]
    write_records(tmp_path / "first.jsonl", greedy)
    said = [replace(one, prediction="i keep bees too") if one.turn == 1 else one for one in greedy]
    write_records(tmp_path / "second.jsonl", said)
    against = ("--against", tmp_path / "first.jsonl", "--against", tmp_path / "second.jsonl")
    tries = ("--try", "prior_weight=0,0.5", "--try", "consensus_weight=0")
    best, same = points(tmp_path, *tries, *against)
    base = (25.0 + (25.0 + 100.0 + 25.0) / 3) / 2  # mean F1 of two seeds
    for point in (best, same):
        difference = point["f1_difference"]
        assert difference["difference"] == pytest.approx(point["values"]["f1"] - base)  # type: ignore[index]
        assert difference["low"] <= difference["difference"] <= difference["high"]  # type: ignore[index]
    assert same["f1_difference"]["difference"] < 0  # type: ignore[index]
    assert "F1 above it (95%)" in succeeded(run(tmp_path, *tries, *against)).output


def test_one_dialogue_has_no_interval(folder: Path):
    write_records(folder / "greedy.jsonl", [chosen_reply(one, RerankWeights()) for one in TURNS])
    assert points(folder, "--against", folder / "greedy.jsonl")[0]["f1_difference"] is None


def test_candidates_of_other_turns_are_no_other_seed(folder: Path, tmp_path: Path):
    write_records(tmp_path / "other.jsonl", TURNS[:2])
    found = error(folder, tmp_path / "other.jsonl")
    assert isinstance(found, UsageError)
    assert f"CANDIDATES: {tmp_path / 'other.jsonl'} is of other turns: dialogue 'a', turn 2 is not there" in str(found)


def test_the_order_of_the_replies_does_not_matter(folder: Path):
    replies = [chosen_reply(one, RerankWeights()) for one in TURNS]
    write_records(folder / "turned.jsonl", replies[::-1])
    assert points(folder, "--against", folder / "turned.jsonl")[0]["gain"] == pytest.approx(0.0)


def test_consensus_can_be_measured_by_another_similarity(folder: Path):
    found = points(folder, "--try", "prior_weight=0", "--try", "consensus_weight=50", "--similarity", "rouge")
    [wanted] = weigh(
        [with_similarity(TURNS, "rouge")], weights_grid({"prior": [0.0], "consensus": [50.0]}), profile="paper"
    )
    assert found[0]["values"] == pytest.approx(wanted.replies.values)
    one = with_similarity(TURNS, "f1")[0].candidates
    assert [round(c.consensus, 3) for c in one] == [0.569, 0.236, 0.556]  # F1 0.25, 0.889 and 0.222, in pairs


def test_a_prior_that_was_not_measured_is_told(folder: Path):
    bare = [replace(one, candidates=tuple(replace(c, prior_logprobs=None) for c in one.candidates)) for one in TURNS]
    write_records(folder / "candidates.jsonl", bare)
    assert "prior: these candidates hold no log-probability" in str(error(folder, "--try", "prior_weight=0.5"))
    assert len(points(folder, "--try", "prior_weight=0")) == 1


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (
            ["--try", "prior=0"],
            "--try: 'prior=0' is not KEY=V1,V2 with a KEY of likelihood, length_power, prior_weight",
        ),
        (["--try", "prior_weight"], "--try: 'prior_weight' is not KEY=V1,V2"),
        (["--try", "prior_weight=much"], "--try prior_weight: 'much' is no number"),
        (["--try", "prior_weight=nan"], "prior: nan is no weight"),
        (["--try", "length_power=1000"], "length_power: 1000.0 is no weight; give a number from -10 to 10"),
        (["--try", "length_power=-1000"], "length_power: -1000.0 is no weight"),
        (["--try", "consensus_weight=1e300"], "consensus: 1e+300 is no weight; give a number from -1000000 to 1000000"),
        (["--try", "likelihood=best"], "likelihood: 'best' is not one of"),
        (["--try", "prior_weight=0", "--try", "prior_weight=1"], "prior_weight is there twice"),
        (["--similarity", "words"], "--similarity: 'words' is not one of f1, rouge, bleu, chrf"),
        (["--profile", "mine"], "profile: 'mine' is not one of paper, standard"),
    ],
)
def test_a_mistake_is_named(folder: Path, arguments: list[str], wanted: str):
    found = error(folder, *arguments)
    assert isinstance(found, UsageError)
    assert wanted in str(found)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"candidates": []}, "candidates: there is none"),
        ({"prompt": 3}, "prompt: there is no prompt 3, scores has 1"),
        ({"prompt": -1}, "prompt: there is no prompt -1"),
        ({"gate": [0.5, 0.5]}, "gate, logprobs and prior_logprobs: 2 figures, scores has 1"),
        ({"scores": []}, "prompt: there is no prompt 0, scores has 0"),
        ({"candidates": [{"logprobs": []}]}, "gate, logprobs and prior_logprobs: 0 figures"),
        ({"candidates": [{"prior_logprobs": [-1.0, -2.0]}]}, "gate, logprobs and prior_logprobs: 2 figures"),
        ({"candidates": [{"prompt": 1}]}, "prompt: there is no prompt 1"),
    ],
)
def test_a_damaged_line_is_named(folder: Path, change: dict[str, object], wanted: str):
    first, second, *_ = map(json.loads, (folder / "candidates.jsonl").read_text().splitlines())
    changed = change.get("candidates")
    if changed:
        change = {"candidates": [second["candidates"][0] | one for one in changed]}  # type: ignore[attr-defined]
    (folder / "candidates.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second | change)}\n")
    found = error(folder, "--try", "likelihood=mixture,top1")
    assert isinstance(found, DataError)
    assert f"candidates.jsonl:2: {wanted}" in str(found)
    assert "unchanged" in str(found)


def test_a_file_that_holds_no_candidates_is_named(folder: Path, tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text('{"dialogue": "a"}\n')
    for path, wanted in ((tmp_path / "bad.jsonl", "bad.jsonl:1: turn: Field required"), (tmp_path / "no", "cannot be")):
        found = error(path)
        assert isinstance(found, DataError)
        assert wanted in str(found)
