"""Every decoding is a row of its own in the report, compared with the reference; what is the adapter's stands there once."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from invented_comparison import Behaviour, Size, write_cell, write_settings

from sptune.evaluation.records import read_records
from sptune.evaluation.result import TurnRecord, load_result
from sptune.experiments.folders import cell_folder
from sptune.experiments.report import write_comparison
from sptune.experiments.report.findings import Findings, find
from sptune.experiments.report.folder import Comparison, read_comparison
from sptune.experiments.report.seed_scores import seed_scores

METHODS = {"pt": {"kind": "spt", "set": {"prompts.count": 1}}, "spt": {"kind": "spt"}, "lora": {"kind": "lora"}}
PT = Behaviour(bertscore=50.0, scored=True)
SPT = Behaviour(copied=0.4, loss=2.8, prompts=4, bertscore=51.0, scored=True)
GATED = Behaviour(copied=0.6, loss=2.8, prompts=4, bertscore=53.0, scored=True)
RERANKED = Behaviour(copied=0.3, bertscore=50.0, scored=True)
SIZE = Size(12, 2)
LABELS = ["pt", "pt (rerank)", "spt", "spt (gated)", "spt (rerank)", "lora"]


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, quick: None) -> Path:
    """A comparison with its report. Shared: tests do not change it."""
    folder = tmp_path_factory.mktemp("decodings")
    write_settings(folder, METHODS, decodings=["gated", "rerank"])
    for seed in (0, 1):
        write_cell(folder, "pt", seed, PT, size=SIZE, decodings={"top1": PT, "rerank": RERANKED})
        spoken = {"top1": SPT, "random": SPT, "best-single": SPT, "gated": GATED, "rerank": GATED}
        write_cell(folder, "spt", seed, SPT, size=SIZE, decodings=spoken)
        write_cell(folder, "lora", seed, PT, size=SIZE, kind="lora")
    write_comparison(folder)
    return folder


@pytest.fixture(scope="module")
def comparison(whole: Path) -> Comparison:
    return read_comparison(whole)


@pytest.fixture(scope="module")
def findings(comparison: Comparison) -> Findings:
    return find(comparison.systems, comparison.reference)


def section(folder: Path, title: str) -> str:
    return (folder / "report.md").read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str, number: int) -> dict[str, list[str]]:
    """A table: first cell of a row -> the others."""
    blocks = ([line for line in block.splitlines() if line.startswith("| ")] for block in text.split("\n\n"))
    tables = [lines for lines in blocks if lines]
    found = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in tables[number]]
    return {first: rest for first, *rest in (found[0], *found[2:])}


def records(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_decoding_with_replies_is_a_row_and_controls_are_none(whole: Path) -> None:
    results, short = section(whole, "Results"), section(whole, "In short")
    for number in (0, 1):
        assert list(rows(results, number)) == ["", *LABELS, "human responses"]
    assert set(rows(short, 0)) == {"", *LABELS}
    assert set(rows(section(whole, "Differences"), 0)) == {"", *LABELS} - {"pt"}
    for name in LABELS[1:]:
        assert f"- {name}: " in short
    for table in ("gains", "differences"):
        assert {one["label"] for one in records(whole, table)} == set(LABELS) - {"pt"}


def test_its_figures_are_those_of_its_own_evaluation(whole: Path) -> None:
    found = {one["label"]: one for one in records(whole, "systems")}
    for label, folder, decoding in (("spt (gated)", "spt", "gated"), ("pt (rerank)", "pt", "rerank")):
        results = [load_result(cell_folder(whole, folder, seed) / "evaluation" / decoding) for seed in (0, 1)]
        for name in ("f1", "dist2", "ead1"):
            values = [result.metrics.values[name] for result in results if result.metrics]
            assert float(found[label][name]) == pytest.approx(sum(values) / 2)
        assert found[label]["decoding"] == decoding


def test_its_perplexity_is_that_of_the_distribution_that_speaks(whole: Path, comparison: Comparison) -> None:
    """Likelihood in a file is the same whatever the decoding; of candidates that are chosen among there is none."""
    found = {one["label"]: one for one in records(whole, "systems")}
    turns = [
        read_records(cell_folder(whole, "spt", s) / "evaluation" / "gated" / "turns.jsonl", TurnRecord) for s in (0, 1)
    ]
    wanted, bits = [], []
    for each in turns:
        cost = -sum(turn.gated_logprob or 0.0 for turn in each)
        wanted.append(math.exp(cost / sum(turn.tokens or 0 for turn in each)))
        bits.append(cost / math.log(2) / sum(turn.bytes or 0 for turn in each))
    assert float(found["spt (gated)"]["perplexity"]) == pytest.approx(sum(wanted) / 2)
    assert float(found["spt (gated)"]["bits_per_byte"]) == pytest.approx(sum(bits) / 2)
    assert found["spt (gated)"]["perplexity"] != found["spt"]["perplexity"]
    assert found["spt (rerank)"]["perplexity"] == found["pt (rerank)"]["bits_per_byte"] == ""
    assert rows(section(whole, "Results"), 1)["spt (rerank)"][:2] == ["–", "–"]
    systems = {system.label: system for system in comparison.systems}
    scores = {label: seed_scores([cell.main for cell in systems[label].cells if cell.main]) for label in LABELS}
    every = np.arange(SIZE.dialogues * SIZE.turns)
    assert scores["spt (gated)"]["perplexity"].of_rows(every) == pytest.approx(sum(wanted) / 2)
    assert "perplexity" not in scores["spt (rerank)"]


def test_it_is_tested_against_the_reference_under_top1(findings: Findings) -> None:
    gained = findings.differences["spt (gated)"]["f1"]
    assert gained.significant
    assert gained.chance.difference > findings.differences["spt"]["f1"].chance.difference > 0
    assert findings.differences["pt (rerank)"]["f1"].chance.difference > 0
    assert findings.gains["spt (gated)"]["perplexity"].chance.difference > 0
    assert "perplexity" not in findings.gains["spt (rerank)"]
    assert findings.averaged[-1] == "dist2"
    assert len(findings.averaged) == 10, (
        "perplexity is none of the ten, so a row without one lacks nothing of the average"
    )
    assert {"dist", "adjusted", "matched", "average"} <= findings.gains["spt (rerank)"].keys()


def test_p_values_are_corrected_over_decodings_too(findings: Findings) -> None:
    ranked_by_p = sorted((one["f1"].chance.p_value, one["f1"].p_adjusted) for one in findings.differences.values())
    smallest, adjusted = ranked_by_p[0]
    assert adjusted == pytest.approx(min(1.0, smallest * (len(LABELS) - 1)))


def test_what_is_the_adapters_stands_there_once(whole: Path) -> None:
    results = section(whole, "Results")
    assert set(rows(results, 2)) == {"", "pt", "spt", "lora"}
    assert len(records(whole, "cells")) == 2 * (2 + 5 + 1)
    assert len(records(whole, "curves")) == 2 * 3 * 3, "seeds, adapters, and points of each curve"
    costs = {one["label"]: one["train_seconds"] for one in records(whole, "systems")}
    assert costs["spt"]
    assert costs["spt (gated)"] == ""
    assert [one["label"] for one in records(whole, "controls")] == ["spt"]
    other = rows(section(whole, "Choice of prompts"), -1)
    assert {"top1 (the tables above)", "random", "best-single"} < set(other)
    assert not {"gated", "rerank"} & set(other)
    assert "3 systems (6 with their further decodings)" in (whole / "report.md").read_text(encoding="utf-8")
    assert rows(section(whole, "What was compared"), 1)["spt"][-1] == "top1, gated, rerank"


def test_how_far_from_people_every_row_is(whole: Path) -> None:
    human = records(whole, "human")[0]
    for label, row in rows(section(whole, "In short"), 0).items():
        if label:
            (own,) = [one for one in records(whole, "systems") if one["label"] == label]
            shares = {
                name: f"{float(own[name]) / float(human[name]):.0%}" for name in ("dist1", "dist2", "ead1", "ead2")
            }
            assert row[-1] == "{dist1}, {dist2} [adjusted {ead1}, {ead2}]".format(**shares)


def test_a_decoding_that_one_seed_lacks_is_no_row_and_is_noted(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    shutil.rmtree(cell_folder(folder, "spt", 1) / "evaluation" / "rerank")
    found = read_comparison(folder)
    assert [system.label for system in found.systems] == [label for label in LABELS if label != "spt (rerank)"]
    assert found.notes == ("spt: decoding rerank is in no table, for not every seed has its replies.",)


def test_bertscore_of_each_reply_is_tested_like_the_other_metrics(whole: Path, findings: Findings) -> None:
    """Every second reply scores 2 above the mean and the others 2 below, with both systems: the difference is that of the means."""
    for name in ("bertscore_f1", "bertscore_precision", "bertscore_recall"):
        chance = findings.differences["spt (gated)"][name].chance
        assert (chance.difference, chance.low, chance.high) == pytest.approx((3.0, 3.0, 3.0))
    assert findings.fixed == ()
    assert rows(section(whole, "Differences"), 1)["spt"][0].startswith("+1.00")


def test_replies_of_earlier_versions_have_no_bertscore_of_their_own(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    path = cell_folder(folder, "spt", 0) / "evaluation" / "top1" / "generations.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(line | {"bertscore": None}) + "\n" for line in lines), encoding="utf-8")
    found = read_comparison(folder)
    findings = find(found.systems, found.reference)
    assert "bertscore_f1" not in findings.differences["spt"]
    assert "bertscore_f1" in findings.differences["spt (gated)"]
    assert findings.fixed == ("bertscore_f1", "bertscore_precision", "bertscore_recall")
    assert "average" in findings.gains["spt"]
