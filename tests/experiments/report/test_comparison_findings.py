from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invented_comparison import Behaviour, Size, write_cell, write_settings

from sptune.evaluation.metrics.profile import per_reply
from sptune.evaluation.significance import BootstrapResult, paired_bootstrap
from sptune.experiments.report import findings as findings_module
from sptune.experiments.report.controls import controls_of
from sptune.experiments.report.controls_section import sentence
from sptune.experiments.report.curve import make_curve, read_curve
from sptune.experiments.report.findings import ALPHA, find
from sptune.experiments.report.folder import read_comparison
from sptune.experiments.report.gains import mean_gain
from sptune.experiments.report.holm import holm
from sptune.experiments.report.seed_scores import as_replies, seed_scores
from sptune.experiments.report.system import System
from sptune.experiments.report.trials import group_trials
from sptune.experiments.report.writing import gain_cell
from sptune.experiments.tuning_log import Trial
from sptune.report.document import Cell

SIZE = Size(8, 3)
PUBLISHED = {  # F1, BLEU, R-1, R-2, R-L, BERT-F1, BERT-P, BERT-R, DIST-1, DIST-2 of PT and SPT, and the average gain
    "OPT-125M": (
        (10.79, 1.61, 14.36, 2.67, 13.25, 53.15, 53.90, 52.91, 3.94, 13.67),
        (11.06, 2.22, 16.45, 3.60, 15.42, 54.86, 56.23, 53.91, 4.87, 17.38),
        16.60,
    ),
    "OPT-2.7B": (
        (8.67, 1.77, 11.84, 2.30, 10.61, 56.25, 58.48, 54.49, 5.18, 18.61),
        (12.23, 3.11, 16.97, 4.37, 15.61, 57.96, 59.92, 56.45, 5.84, 20.76),
        33.04,
    ),
}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings_module, "SAMPLES", 100)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_mean_gain_is_that_of_the_published_table(name: str) -> None:
    reference, own, gain = PUBLISHED[name]
    metrics = [str(number) for number in range(10)]
    found = mean_gain(dict(zip(metrics, own, strict=True)), dict(zip(metrics, reference, strict=True)), metrics)
    assert found == pytest.approx(gain, abs=0.05)


def test_a_reference_of_zero_is_no_gain() -> None:
    assert mean_gain({"a": 2.0, "b": 2.0}, {"a": 0.0, "b": 1.0}, ["a", "b"]) == 50.0


def systems(folder: Path, **behaviours: Behaviour) -> dict[str, System]:
    """Systems with two seeds, against `pt`."""
    write_settings(folder, {name: {"kind": "spt"} for name in behaviours})
    for name, behaviour in behaviours.items():
        for seed in (0, 1):
            write_cell(folder, name, seed, behaviour, size=SIZE)
    return {system.label: system for system in read_comparison(folder).systems}


def test_scores_of_all_rows_are_the_figures_of_the_evaluations(tmp_path: Path) -> None:
    system = systems(tmp_path, pt=Behaviour(prompts=3))["pt"]
    scores = seed_scores([cell.main for cell in system.cells if cell.main])
    rows = np.arange(SIZE.dialogues * SIZE.turns)
    for name in ("f1", "rouge1", "rouge2", "rougeL", "bleu", "dist1", "dist2", "ead1", "ead2", "words"):
        wanted = [result.metrics.values[name] for result in system.results if result.metrics]
        assert scores[name].of_rows(rows) == pytest.approx(sum(wanted) / 2), name
    perplexity = [result.likelihood.perplexity for result in system.results if result.likelihood]
    hits = [result.ranking.hits_at_1 for result in system.results if result.ranking]
    assert scores["perplexity"].of_rows(rows) == pytest.approx(sum(perplexity) / 2)
    assert scores["hits_at_1"].of_rows(rows) == pytest.approx(sum(hits) / 2)


def test_a_metric_of_other_turns_with_another_seed_is_left_out(tmp_path: Path) -> None:
    write_settings(tmp_path, {"pt": {"kind": "spt"}})
    write_cell(tmp_path, "pt", 0, Behaviour(), size=SIZE)
    write_cell(tmp_path, "pt", 1, Behaviour(), size=Size(8, 2))
    (system,) = read_comparison(tmp_path).systems
    assert seed_scores([cell.main for cell in system.cells if cell.main]) == {}


def test_differences_average_the_seeds_in_each_resample(tmp_path: Path) -> None:
    found = systems(tmp_path, pt=Behaviour(), spt=Behaviour(copied=0.4))

    def f1(system: System) -> tuple[np.ndarray, list[str]]:
        replies = [as_replies(cell.main.generations) for cell in system.cells if cell.main]
        each = np.array([[row["f1"] for row in per_reply(part, "paper")] for part in replies])
        return each.mean(axis=0), [reply.dialogue_id for reply in replies[0]]

    (own, clusters), (base, _) = f1(found["spt"]), f1(found["pt"])
    wanted = paired_bootstrap(own, base, clusters, samples=100)
    got = find(list(found.values()), found["pt"]).differences["spt"]["f1"].chance
    assert (got.difference, got.low, got.high) == pytest.approx((wanted.difference, wanted.low, wanted.high))
    assert got.p_value == pytest.approx(wanted.p_value)


def test_a_system_that_says_the_same_differs_in_nothing(tmp_path: Path) -> None:
    replies = ["i like to sail .", "me too !", "no , i do not ."] * SIZE.dialogues
    write_settings(tmp_path, {"pt": {"kind": "spt"}, "same": {"kind": "lora"}}, seeds=[0])
    for name in ("pt", "same"):
        write_cell(tmp_path, name, 0, Behaviour(), size=SIZE, replies=replies)
    found = read_comparison(tmp_path)
    result = find(found.systems, found.reference)
    for one in (*result.differences["same"].values(), *result.gains["same"].values()):
        assert (one.chance.difference, one.chance.low, one.chance.high, one.p_adjusted) == (0.0, 0.0, 0.0, 1.0)
        assert not one.significant


def test_a_small_p_value_with_an_interval_that_holds_zero_is_not_significant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = systems(tmp_path, pt=Behaviour(), spt=Behaviour(copied=0.4))
    torn = BootstrapResult(68.2, -7.4, 126.8, 0.001)
    monkeypatch.setattr("sptune.experiments.report.findings.paired_bootstrap", lambda *_, **__: torn)
    result = find(list(found.values()), found["pt"])
    for one in (*result.differences["spt"].values(), *result.gains["spt"].values()):
        assert one.p_adjusted < ALPHA
        assert not one.significant
        assert gain_cell(one) == Cell("+68.2%", "plain", "−7.4 to +126.8")


def test_f1_and_perplexity_are_judged_once(tmp_path: Path) -> None:
    behaviours = {
        "few": Behaviour(copied=0.05, loss=2.99),
        "more": Behaviour(copied=0.12),
        "same": Behaviour(loss=3.02),
    }
    found = systems(tmp_path, pt=Behaviour(), **behaviours)
    result = find(list(found.values()), found["pt"])
    for label in behaviours:
        for name in ("f1", "perplexity"):
            gain, difference = result.gains[label][name], result.differences[label][name]
            assert (gain.p_adjusted, gain.significant) == (difference.p_adjusted, difference.significant)
            assert gain.chance.p_value == difference.chance.p_value


def test_systems_of_other_turns_have_no_findings(tmp_path: Path) -> None:
    write_settings(tmp_path, {"pt": {"kind": "spt"}, "other": {"kind": "lora"}}, seeds=[0])
    write_cell(tmp_path, "pt", 0, Behaviour(), size=SIZE)
    write_cell(tmp_path, "other", 0, Behaviour(), size=Size(7, 3))
    found = read_comparison(tmp_path)
    result = find(found.systems, found.reference)
    assert result.differences["other"] == {}
    assert result.gains["other"] == {}


def test_being_brief_gains_dist_and_nothing_at_equal_length(tmp_path: Path) -> None:
    found = systems(tmp_path, pt=Behaviour(copied=0.0, length=12), brief=Behaviour(copied=0.0, length=4))
    gains = find(list(found.values()), found["pt"]).gains["brief"]
    assert gains["dist"].chance.difference > 30
    assert abs(gains["matched"].chance.difference) < 10
    assert gains["dist"].significant


def test_saved_perplexity_is_a_share_of_the_references(tmp_path: Path) -> None:
    found = systems(tmp_path, pt=Behaviour(loss=3.0), better=Behaviour(loss=3.0 + math.log(0.9)))
    saved = find(list(found.values()), found["pt"]).gains["better"]["perplexity"].chance
    assert (saved.difference, saved.low, saved.high) == pytest.approx((10.0, 10.0, 10.0))


def test_p_values_are_corrected_over_the_systems(tmp_path: Path) -> None:
    found = systems(tmp_path, pt=Behaviour(), a=Behaviour(copied=0.25), b=Behaviour(copied=0.6))
    result = find(list(found.values()), found["pt"]).differences
    raw = {label: one["f1"].chance.p_value for label, one in result.items()}
    assert {label: one["f1"].p_adjusted for label, one in result.items()} == holm(raw)


@given(st.dictionaries(st.text(max_size=3), st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_lowers_a_p_value(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    for name, value in p_values.items():
        assert min(1.0, value) <= adjusted[name] <= min(1.0, value * len(p_values))
        assert all(adjusted[name] <= adjusted[other] for other in p_values if p_values[other] > value)


def test_controls_tell_a_retriever_that_chooses_from_one_that_does_not(tmp_path: Path) -> None:
    found = systems(
        tmp_path, pt=Behaviour(), knows=Behaviour(prompts=4, follows=1.0), guesses=Behaviour(prompts=4, follows=0.0)
    )
    assert controls_of(found["pt"]) is None
    knows, guesses = (controls_of(found[name]) for name in ("knows", "guesses"))
    assert knows
    assert guesses
    assert knows.agreement
    assert knows.agreement.mean == 1.0
    chosen, oracle, random = (knows.perplexity[name] for name in ("chosen", "oracle", "random"))
    assert chosen
    assert oracle
    assert random
    assert chosen.mean == pytest.approx(oracle.mean)
    assert random.mean / chosen.mean == pytest.approx(math.exp(0.75 * 0.4))  # three of four prompts cost 0.4 nats more
    against = knows.against["random"]
    assert against.difference == pytest.approx(chosen.mean - random.mean)
    assert against.high < 0 < guesses.against["random"].p_value
    assert knows.against["best_single"].p_value < 0.05 < guesses.against["random"].p_value
    assert sentence(knows).startswith(
        "choosing for every turn beats a random prompt, the best single prompt and the offline probe"
    )
    assert sum(knows.usage) == pytest.approx(1.0)
    assert list(knows.usage) == sorted(knows.usage, reverse=True)


def test_the_probe_is_compared_turn_by_turn(tmp_path: Path) -> None:
    """The invented probe always picks prompt 0, and so does the evaluation that is forced to the best single prompt."""
    write_settings(tmp_path, {"spt": {"kind": "spt"}}, seeds=[0])
    write_cell(tmp_path, "spt", 0, Behaviour(prompts=3), size=SIZE, decodings=("top1", "best-single"))
    (system,) = read_comparison(tmp_path).systems
    controls = controls_of(system)
    likelihood = system.results[0].likelihood
    assert controls
    assert likelihood
    first = likelihood.prompt_perplexity[0]
    for name in ("probe", "validated_single"):
        assert controls.against[name].difference == pytest.approx(likelihood.perplexity - first)
    single = controls.perplexity["validated_single"]
    assert single
    assert single.mean == pytest.approx(first)


def test_the_curve_of_prompts_over_lora_goes_on_behind_lora_s(tmp_path: Path) -> None:
    """Steps and tokens of both count: it is one budget."""
    for folder, perplexity in ((tmp_path / "first", 30.0), (tmp_path, 20.0)):
        folder.mkdir(exist_ok=True)
        records = (
            {"kind": "train", "step": 2, "tokens": 10},
            {"kind": "validation", "step": 2, "perplexity": perplexity},
        )
        (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    curve = read_curve(tmp_path, [])
    assert (curve.steps, curve.tokens, curve.perplexity) == ((2, 4), (10.0, 20.0), (30.0, 20.0))


def test_a_curve_counts_the_tokens_until_each_validation() -> None:
    records = [
        {"kind": "validation", "step": 4, "perplexity": 20.0},
        {"kind": "train", "step": 2, "tokens": 10.0},
        {"kind": "train", "step": 4, "tokens": 5.0},
        {"kind": "validation", "step": 3, "perplexity": 30.0},
        {"kind": "train", "step": 6, "tokens": 7.0},
        {"kind": "validation", "step": 6, "perplexity": None},
    ]
    curve = make_curve(records)
    assert (curve.steps, curve.tokens, curve.perplexity) == ((3, 4), (10.0, 15.0), (30.0, 20.0))
    assert not make_curve(records[1:3])


def trial(rate: float, perplexity: float | None, **setting: int) -> Trial:
    return Trial(method="k", learning_rate=rate, perplexity=perplexity, setting=setting)


def test_trials_are_grouped_by_setting_and_the_last_of_a_rate_counts() -> None:
    tuned = group_trials([trial(0.1, 9.0, K=2), trial(0.1, 5.0), trial(0.01, 8.0, K=2), trial(0.1, 7.0, K=2)])
    assert [(one.setting, [t.perplexity for t in one.trials]) for one in tuned] == [({"K": 2}, [8.0, 7.0]), ({}, [5.0])]
    assert tuned[0].best == trial(0.1, 7.0, K=2)


@pytest.mark.parametrize(
    ("perplexities", "edge"),
    [
        ((3.0, 2.0, 1.0), "highest"),
        ((1.0, 2.0, 3.0), "lowest"),
        ((2.0, 1.0, 2.0), None),
        ((1.0,), None),
        ((None,), None),
    ],
)
def test_the_edge_of_the_tried_rates(perplexities: tuple[float | None, ...], edge: str | None) -> None:
    (tuned,) = group_trials([trial(10.0**-place, value) for place, value in enumerate(reversed(perplexities))])
    assert tuned.edge == edge
