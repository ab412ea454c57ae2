"""A robustness test from the model to its report: what moves is measured as an evaluation would, and nothing twice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sptune.data.dialogue import Dialogue
from sptune.errors import UsageError
from sptune.evaluation import parts
from sptune.evaluation.run import Settings as EvaluationSettings
from sptune.evaluation.run import evaluate
from sptune.evaluation.turns import choose_prompts
from sptune.experiments.robustness.measurement import Measurement, measure
from sptune.experiments.robustness.movement import KEPT, MetricMovement, choice_movement
from sptune.experiments.robustness.noise import with_noise
from sptune.experiments.robustness.perturbation import perturb
from sptune.experiments.robustness.report import make_document, sentences, tables, write_report
from sptune.experiments.robustness.result import RobustnessResult
from sptune.experiments.robustness.run import Settings, run
from sptune.model.generate import Decoding
from sptune.model.spt import SPTModel
from sptune.report.markdown import to_markdown

Maker = Callable[..., SPTModel]
ALL = EvaluationSettings(parts=("likelihood", "ranking", "generation"), decoding=Decoding(max_new_tokens=3))
LIKELIHOOD = EvaluationSettings(parts=("likelihood",))


@pytest.fixture(scope="module")
def talks(dialogues: tuple[Dialogue, ...]) -> list[Dialogue]:
    """Short dialogues; candidates in all turns but the second of each."""
    return [
        replace(
            talk,
            turns=tuple(
                turn if number == 1 else replace(turn, candidates=("no .", turn.response or ""))
                for number, turn in enumerate(talk.turns[:3])
            ),
        )
        for talk in dialogues
    ]


@pytest.fixture(scope="module")
def model(tiny_model: Maker) -> SPTModel:
    return tiny_model()


@pytest.fixture(scope="module")
def clean(model: SPTModel, talks: list[Dialogue]) -> Measurement:
    return measure(model, choose_prompts(model, talks), ALL)


@pytest.fixture(scope="module")
def result(model: SPTModel, talks: list[Dialogue], tmp_path_factory: pytest.TempPathFactory) -> tuple[RobustnessResult, Path]:  # fmt: skip
    folder = tmp_path_factory.mktemp("robust")
    settings = Settings(perturbations=("typos", "history"), noise=(1e-9, 5.0), evaluation=ALL, samples=20)
    found = run(model, talks, settings=settings, output=folder)
    write_report(folder, found)
    return found, folder


@pytest.mark.parametrize("name", ["shuffle", "irrelevant", "history", "noise"])
def test_what_is_taken_over_from_the_clean_version_is_what_would_be_measured(
    name: str, model: SPTModel, talks: list[Dialogue], clean: Measurement
) -> None:
    noisy = with_noise(clean.turns, 0.3)
    turns = noisy if name == "noise" else choose_prompts(model, perturb(name, talks))
    short, whole = measure(model, turns, ALL, clean=clean), measure(model, turns, ALL)
    assert [score.selection for score in short.scores] == [turn.selection for turn in turns]
    for one, other in zip(short.scores, whole.scores, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, rel=1e-4)
    assert short.ranks == whole.ranks
    assert short.replies == whole.replies
    assert {(one.dialogue, one.turn) for one in short.scores} == {(one.dialogue, one.turn) for one in whole.replies}


def test_without_history_the_only_turn_of_a_dialogue_keeps_its_figures(model: SPTModel, talks: list[Dialogue]) -> None:
    """Nothing is left out of it, so that all is taken over, under the id that it has now."""
    short = [replace(talk, turns=talk.turns[:1]) for talk in talks]
    clean = measure(model, choose_prompts(model, short), ALL)
    found = measure(model, choose_prompts(model, perturb("history", short)), ALL, clean=clean)
    assert [one.dialogue for one in found.scores] == [f"{talk.id}#0" for talk in talks]
    assert [(one.logprobs, one.gated_logprob, one.mixture_logprob) for one in found.scores] == [
        (one.logprobs, one.gated_logprob, one.mixture_logprob) for one in clean.scores
    ]


def test_a_gate_is_that_of_the_noisy_scores(model: SPTModel, talks: list[Dialogue], clean: Measurement) -> None:
    noisy = with_noise(clean.turns, 0.3)
    short, whole = measure(model, noisy, LIKELIHOOD, clean=clean).scores, measure(model, noisy, LIKELIHOOD).scores
    assert [one.mixture_logprob for one in short] == pytest.approx([one.mixture_logprob for one in whole])
    assert [one.mixture_logprob for one in short] != pytest.approx([one.mixture_logprob for one in clean.scores])
    assert {one.gated_logprob for one in short} == {None}  # it mixes at every token, and only sums are kept
    gated = replace(ALL, parts=("generation",), decoding=Decoding(max_new_tokens=3, kind="gated"))
    before = measure(model, clean.turns, gated)
    little = with_noise(clean.turns, 0.05)
    assert measure(model, little, gated, clean=before).replies == measure(model, little, gated).replies


def test_noise_asks_the_model_only_for_turns_that_get_another_prompt(
    model: SPTModel, clean: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    generate = parts.generate_replies

    def count(model: SPTModel, turns: Any, **options: Any) -> Any:
        asked.append(len(turns))
        return generate(model, turns, **options)

    monkeypatch.setattr(parts, "generate_replies", count)
    turns = with_noise(clean.turns, 0.05)
    changed = sum(a.selection.prompt != b.selection.prompt for a, b in zip(turns, clean.turns, strict=True))
    assert 0 < changed < len(turns)
    measure(model, turns, ALL, clean=clean)
    measure(model, with_noise(clean.turns, 1e-9), ALL, clean=clean)
    assert asked == [changed]


def test_noise_depends_on_the_seed_and_the_turn_alone(clean: Measurement) -> None:
    noisy = with_noise(clean.turns, 0.5)
    assert with_noise(clean.turns[3:5], 0.5) == noisy[3:5]
    assert with_noise(clean.turns, 0.5, seed=1) != noisy
    more = with_noise(clean.turns, 1.0)
    for turn, once, twice in zip(clean.turns, noisy, more, strict=True):
        base, small, large = (np.array(one.selection.scores) for one in (turn, once, twice))
        assert large - base == pytest.approx(2 * (small - base))
        assert twice.selection.prompt == int(large.argmax())


def test_movement_of_scores_is_as_worked_by_hand(clean: Measurement) -> None:
    def scored(*scores: float) -> Any:
        chosen = replace(clean.turns[0].selection, prompt=int(np.argmax(scores)), scores=scores)
        return replace(clean.turns[0], selection=chosen)

    one = math.log(3.0)
    before = [scored(one, 0.0), scored(1.0, 0.0)]  # softmax 3/4, 1/4
    after = [scored(0.0, one), scored(1.0, 0.0)]
    moved = choice_movement(before, after)
    assert (moved.changed, moved.usage) == (0.5, (0.5, 0.5))
    assert moved.total_variation == pytest.approx(0.5 * 0.5)
    assert moved.cosine == pytest.approx(0.5)
    still = choice_movement([scored(0.0, 0.0)], [scored(0.0, 0.0)])
    assert (still.changed, still.total_variation, still.cosine) == (0.0, 0.0, 1.0)


def test_the_clean_figures_are_those_of_an_evaluation(
    model: SPTModel, talks: list[Dialogue], result: tuple[RobustnessResult, Path]
) -> None:
    found = evaluate(model, talks, settings=ALL).result
    assert found.likelihood
    assert found.ranking
    assert found.metrics
    wanted = {"perplexity": found.likelihood.perplexity, "hits_at_1": found.ranking.hits_at_1, "mrr": found.ranking.mrr}
    wanted |= {name: found.metrics.values[name] for name in ("f1", "bleu", "rougeL", "dist1", "dist2", "words")}
    for condition in result[0].conditions:
        assert {name: condition.metrics[name].clean for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert result[0].usage == pytest.approx(found.selection.usage if found.selection else ())


def test_the_disturbed_figures_are_those_of_an_evaluation_of_the_disturbed_input(
    model: SPTModel, talks: list[Dialogue], result: tuple[RobustnessResult, Path]
) -> None:
    [typos] = [one for one in result[0].conditions if one.name == "typos"]
    found = evaluate(model, perturb("typos", talks), settings=LIKELIHOOD).result.likelihood
    assert found
    moved = typos.metrics["perplexity"]
    assert moved.disturbed == pytest.approx(found.perplexity, rel=1e-5)
    assert moved.difference == pytest.approx(moved.disturbed - moved.clean)
    assert moved.low <= moved.difference <= moved.high


def test_a_hair_of_noise_moves_nothing_and_a_storm_moves_the_choice_but_not_the_prompts(
    result: tuple[RobustnessResult, Path],
) -> None:
    hair, storm = result[0].conditions[-2:]
    assert (hair.name, storm.name) == ("noise-1e-09", "noise-5")
    assert hair.choice
    assert storm.choice
    assert hair.choice.changed == 0
    assert hair.choice.cosine == pytest.approx(1)
    assert all(one.difference == 0 and one.p_value == 1 for one in hair.metrics.values())
    assert storm.choice.changed > 0.3
    assert storm.choice.total_variation > 0.3
    assert storm.metrics["perplexity"].difference != 0
    assert storm.metrics[KEPT].difference == 0


def test_each_condition_keeps_its_turns_and_replies(
    talks: list[Dialogue], result: tuple[RobustnessResult, Path]
) -> None:
    found, folder = result
    assert json.loads((folder / "robustness.json").read_text()) == found.to_json()
    names = {"clean", *(one.name for one in found.conditions)}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == names | {"plots"}
    for name in names:
        turns = [json.loads(line) for line in (folder / name / "turns.jsonl").read_text().splitlines()]
        assert len(turns) == sum(len(talk.turns) for talk in talks)
        assert all(turn["logprobs"] for turn in turns)
        assert sum(turn["rank"] is not None for turn in turns) == sum(
            len(talk.turns) - (len(talk.turns) > 1) for talk in talks
        )
        replies = [json.loads(line) for line in (folder / name / "generations.jsonl").read_text().splitlines()]
        for figure in ("dialogue", "turn", "prompt", "scores", "margin"):
            assert [one[figure] for one in replies] == [turn[figure] for turn in turns]


def test_nothing_is_left_of_the_test_that_another_replaces(
    model: SPTModel, talks: list[Dialogue], tmp_path: Path
) -> None:
    first = Settings(("case",), (0.3,), replace(ALL, parts=("likelihood", "generation")), samples=5)
    write_report(tmp_path, run(model, talks[:2], settings=first, output=tmp_path))
    mine = {"case/notes.txt", "noise-study/turns.jsonl"}
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    kept: list[set[str]] = []

    def look(*_: Any) -> None:
        kept.append({str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()})

    run(model, talks[:2], settings=Settings(("typos",), (), LIKELIHOOD, samples=5), output=tmp_path, progress=look)
    assert kept[0] == mine
    look()
    assert kept[-1] == mine | {"robustness.json", "clean/turns.jsonl", "typos/turns.jsonl"}
    assert not (tmp_path / "noise-0.3").exists()


def test_the_report_names_every_condition_and_metric(result: tuple[RobustnessResult, Path]) -> None:
    found, folder = result
    text = (folder / "report.md").read_text()
    assert (folder / "plots" / "robustness.png").stat().st_size > 10_000
    assert "(plots/robustness.png)" in text
    for word in ("typos", "history", "noise-5", "perplexity, prompt kept", "hits@1, %", "F1, %", "DIST-2, %"):
        assert word in text
    assert f"The test data has {found.data.dialogues} dialogues: with fewer than 20 all intervals are rough." in text
    said = list(sentences(found))
    assert said[0].startswith("The choice of prompt moves most under noise-5")
    choice, metrics = tables(found)
    assert (
        [row[0] for row in choice.rows]
        == [row[0] for row in metrics.rows]
        == ["clean input", *(one.name for one in found.conditions)]
    )
    assert metrics.rows[0][1:] == tuple(f"{moved.clean:.2f}" for moved in found.conditions[0].metrics.values())
    assert all(len(row) == len(table.columns) for table in (choice, metrics) for row in table.rows)


def test_what_rounds_to_nothing_has_no_minus_and_what_is_rare_is_not_said_to_be_none(
    result: tuple[RobustnessResult, Path],
) -> None:
    found = result[0]
    one = found.conditions[0]
    assert one.choice
    hair = MetricMovement(20.0, 19.999, -0.001, -0.002, -0.0005, 0.01)
    small = replace(found, conditions=(replace(one, choice=replace(one.choice, changed=0.003), metrics={"f1": hair}),))
    [_, table] = tables(small)
    assert table.rows[1][1] == "+0.00 [+0.00, +0.00]"
    text = to_markdown(make_document(small))
    assert "-0.00" not in text
    assert "(0.3% of the turns)" in text


def test_where_nothing_moves_that_is_said(result: tuple[RobustnessResult, Path]) -> None:
    found = result[0]
    still = MetricMovement(20.0, 20.0, 0.0, 0.0, 0.0, 1.0)
    conditions = [
        replace(one, choice=one.choice and replace(one.choice, changed=0.0), metrics={"perplexity": still, KEPT: still})
        for one in found.conditions
    ]
    first, _, last = sentences(replace(found, conditions=tuple(conditions)))
    assert first == "No disturbance moves the choice of prompt, on any turn."
    assert last == "No disturbance raises perplexity, 20.00 on the clean input."
    one = next(one for one in found.conditions if one.choice and one.choice.changed)
    alone = next(sentences(replace(found, conditions=(one,))))
    assert re.fullmatch(rf"Another prompt is chosen under {one.name} \([\d.]+% of the turns\)\.", alone)


def test_one_prompt_leaves_nothing_to_choose(tiny_model: Maker, talks: list[Dialogue]) -> None:
    settings = Settings(perturbations=("case",), evaluation=LIKELIHOOD, samples=10)
    found = run(tiny_model(count=1), talks, settings=settings)
    assert [(one.name, one.choice) for one in found.conditions] == [("case", None)]
    text = to_markdown(make_document(found))
    assert "prompts that the clean input chose" not in text
    assert "other prompt" not in text


def test_progress_names_condition_and_part(model: SPTModel, talks: list[Dialogue]) -> None:
    seen: list[tuple[str, int, int]] = []
    settings = Settings(perturbations=("case",), noise=(), evaluation=LIKELIHOOD, samples=5)
    run(model, talks[:2], settings=settings, progress=lambda *what: seen.append(what))
    assert {part for part, _, _ in seen} == {"clean likelihood", "case likelihood"}
    assert seen[-1][1] == seen[-1][2] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"perturbations": ("typo",)}, "perturb: 'typo' is not one of typos"),
        ({"noise": (0.0,)}, r"noise: 0\.0 is no standard deviation"),
        ({"noise": (math.nan,)}, "noise: nan is no"),
        ({"evaluation": EvaluationSettings(prompt=0)}, "rule: only the choice"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings(**settings)


@pytest.mark.parametrize(
    ("count", "settings", "used", "words"),
    [
        (3, Settings(("case",), (), LIKELIHOOD), 1, "at least 2 are needed"),
        (1, Settings((), (0.1,), LIKELIHOOD), 2, "nothing to disturb"),
        (3, Settings(("case", "irrelevant"), (), LIKELIHOOD), 0, "irrelevant needs dialogues with different personas"),
        (3, Settings(("case",), (), EvaluationSettings(decoding=Decoding(max_new_tokens=5000))), 2, "max_new_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_measured(
    tiny_model: Maker, talks: list[Dialogue], count: int, settings: Settings, used: int, words: str
) -> None:
    same = [replace(talk, persona=()) for talk in talks]
    seen: list[Any] = []
    with pytest.raises(UsageError, match=words):
        run(tiny_model(count=count), talks[:used] or same, settings=settings, progress=lambda *what: seen.append(what))  # fmt: skip
    assert not seen


@pytest.mark.parametrize("ranked", [0, 1])
def test_ranking_without_candidates_is_refused_before_anything_is_measured(
    model: SPTModel, talks: list[Dialogue], dialogues: tuple[Dialogue, ...], ranked: int
) -> None:
    seen: list[Any] = []
    data = [*talks[:ranked], *dialogues[ranked:3]]
    settings = Settings(("case",), (), EvaluationSettings(parts=("likelihood", "ranking")))
    with pytest.raises(
        UsageError, match=f"parts: ranking needs .* in at least 2 dialogues, and found them in {ranked};"
    ):
        run(model, data, settings=settings, progress=lambda *what: seen.append(what))
    assert not seen
