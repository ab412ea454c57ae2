from __future__ import annotations

import csv
import doctest
import importlib
import json
import pkgutil
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from statistics import stdev

import pytest
from invented_comparison import Behaviour, Size, human, write_cell, write_record, write_settings, write_trial

from sptune.errors import DataError
from sptune.evaluation.result import load_result
from sptune.experiments import report
from sptune.experiments.folders import TUNING_NAME, cell_folder
from sptune.experiments.plan import SETTINGS_NAME
from sptune.experiments.report import WrittenComparison, write_comparison
from sptune.experiments.report.controls import controls_of
from sptune.experiments.report.findings import Findings, find
from sptune.experiments.report.folder import Comparison, read_comparison
from sptune.experiments.report.write import make_document
from sptune.experiments.report.writing import DASH, without_empty
from sptune.report.document import Cell, Row, Table
from sptune.report.markdown import to_markdown

METHODS = {
    "zero-shot": {"kind": "zero_shot", "seeds": [0]},
    "pt": {"kind": "spt", "set": {"prompts.count": 1}},
    "spt": {"kind": "spt"},
    "k": {"kind": "spt", "grid": {"prompts.count": [1, 16, 2]}},
}
PT = Behaviour(copied=0.2, bertscore=50.0)
SPT = Behaviour(copied=0.5, rare=0.6, loss=2.8, prompts=4, follows=0.9, bertscore=51.0)
SMALL = Size(6, 2)


pytestmark = pytest.mark.usefixtures("quick")


def write_all(folder: Path) -> Path:
    """A comparison that lacks nothing, with two seeds."""
    write_settings(folder, METHODS)
    write_cell(folder, "zero-shot", 0, Behaviour(copied=0.05, length=12, loss=3.8, curve=(), bertscore=45.0))
    for seed in (0, 1):
        write_cell(folder, "pt", seed, PT)
        write_cell(folder, "spt", seed, SPT, decodings=("top1", "random", "best-single"))
        for prompts in (1, 16, 2):
            behaviour = Behaviour(copied=0.2 + prompts / 100, prompts=prompts, bertscore=50.0)
            write_cell(folder, "k", seed, behaviour, setting={"prompts.count": prompts})
    for rate, perplexity in ((0.01, 24.0), (0.1, 22.0), (0.03, 23.0)):
        write_trial(folder, "pt", rate, perplexity)
        write_trial(folder, "spt", rate, 20.0 + abs(rate - 0.03))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, quick: None) -> WrittenComparison:
    """What was written of a complete comparison."""
    return write_comparison(write_all(tmp_path_factory.mktemp("compare") / "invented"))


@pytest.fixture(scope="module")
def whole(written: WrittenComparison) -> Path:
    """A complete comparison, with its report. Shared: tests do not change it."""
    return written.page.parent


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "invented"))


def text_of(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


def section(folder: Path, title: str) -> str:
    return text_of(folder).split(f"\n## {title}\n")[1].split("\n## ")[0]


@dataclass(frozen=True)
class Told:
    """What a report says of a folder, without any picture."""

    comparison: Comparison
    findings: Findings
    text: str

    def section(self, title: str) -> str:
        return self.text.split(f"\n## {title}\n")[1].split("\n## ")[0]

    def average(self, label: str) -> float:
        return self.findings.gains[label]["average"].chance.difference


def told(folder: Path) -> Told:
    comparison = read_comparison(folder)
    findings = find(comparison.systems, comparison.reference)
    controls = [found for system in comparison.systems if (found := controls_of(system))]
    text = to_markdown(make_document(comparison, findings, controls, plots={}))
    return Told(comparison, findings, text)


def tables(text: str) -> list[dict[str, dict[str, str]]]:
    """Each table: first cell of a row -> heading of a column -> cell."""
    found: list[dict[str, dict[str, str]]] = []
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in block.splitlines() if line[:2] == "| "]
        if len(lines) > 1:
            heads, _, *rows = lines
            found.append({row[0]: dict(zip(heads, row, strict=True)) for row in rows})
    return found


def records(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def metric(folder: Path, label: str, seed: int, name: str) -> float:
    found = load_result(cell_folder(folder, label, seed) / "evaluation" / "top1").metrics
    assert found is not None
    return found.values[name]


def test_the_papers_table_has_means_spreads_and_the_mean_gain_of_ten_metrics(whole: Path) -> None:
    table = tables(section(whole, "Results"))[0]
    assert list(table) == ["zero-shot", "pt", "spt", "k · 1", "k · 16", "k · 2", "human responses"]
    keys = {"F1": "f1", "BLEU": "bleu", "R-1": "rouge1", "R-2": "rouge2", "R-L": "rougeL", "BERT-F1": "bertscore_f1"}
    keys |= {"BERT-P": "bertscore_precision", "BERT-R": "bertscore_recall", "DIST-1": "dist1", "DIST-2": "dist2"}
    assert list(table["pt"]) == ["", *(f"{head} ↑" for head in keys), "AVG gain ↑"]
    own, base = (
        {key: [metric(whole, name, seed, key) for seed in (0, 1)] for key in keys.values()} for name in ("spt", "pt")
    )
    for head, key in keys.items():
        cell = table["spt"][f"{head} ↑"]
        assert cell.split(" ")[0] == f"{sum(own[key]) / 2:.2f}"
        assert cell.endswith(f"[±{stdev(own[key]):.2f}]")
    gain = sum(100 * (sum(own[key]) / sum(base[key]) - 1) for key in keys.values()) / 10
    assert table["spt"]["AVG gain ↑"].split("%")[0].replace("−", "-") == f"{gain:+.2f}"
    assert table["pt"]["AVG gain ↑"] == "reference"
    assert "[" not in table["zero-shot"]["F1 ↑"]  # one seed has no spread


def test_human_responses_have_what_needs_no_reference(whole: Path) -> None:
    paper, further, *_ = tables(section(whole, "Results"))
    result = load_result(cell_folder(whole, "pt", 0) / "evaluation" / "top1").metrics
    assert result is not None
    row = paper["human responses"]
    assert row["F1 ↑"] == "–"
    assert row["DIST-2 ↑"] == f"{result.human['dist2']:.2f}"
    assert further["human responses"]["words a reply ≈"] == f"{result.human['words']:.2f}"


def test_a_case_worked_by_hand(tmp_path: Path) -> None:
    """Human responses have 10 words. pt says the first 5 of each: F1 = 2 * 5 / 15; spt says all 10: F1 = 1.

    So the gain of F1 is 50%, in every resample. At equal length both say the same five words: no gain of DIST.
    """
    write_settings(tmp_path, {"pt": {"kind": "spt"}, "spt": {"kind": "spt"}}, seeds=[0])
    whole_replies = [human(number) for number in range(12)]
    half = [" ".join(reply.split()[:5]) for reply in whole_replies]
    write_cell(tmp_path, "pt", 0, PT, replies=half, size=SMALL)
    write_cell(tmp_path, "spt", 0, PT, replies=whole_replies, size=SMALL)
    findings = told(tmp_path).findings
    gains, differences = findings.gains["spt"], findings.differences["spt"]
    for found, value in ((gains["f1"].chance, 50.0), (differences["f1"].chance, 100 / 3)):
        assert (found.difference, found.low, found.high) == pytest.approx((value, value, value))
    assert gains["matched"].chance.difference == pytest.approx(0.0, abs=1e-9)
    words, short = ([word for reply in replies for word in reply.split()] for replies in (whole_replies, half))
    dist = 100 * len(set(words)) / len(words) - 100 * len(set(short)) / len(short)
    assert dist < 0
    assert differences["dist1"].chance.difference == pytest.approx(dist)
    assert differences["words"].chance.difference == 5.0


def test_significant_differences_are_marked_and_said_in_sentences(whole: Path) -> None:
    found = {(one["label"], one["metric"]): one for one in records(whole, "differences")}
    f1 = found["spt", "f1"]
    assert float(f1["p_holm"]) < 0.05
    assert float(f1["low"]) > 0
    assert "▲" in tables(section(whole, "Results"))[0]["spt"]["F1 ↑"]
    assert "▼" in tables(section(whole, "Results"))[0]["zero-shot"]["F1 ↑"]
    cell = tables(section(whole, "Differences"))[0]["spt"]["F1 ↑"]
    assert cell.startswith(f"+{float(f1['difference']):.2f}\\*")
    assert ", better [" in cell
    short = section(whole, "In short")
    assert "- spt: better beyond noise on F1, BLEU, " in short
    assert "- zero-shot: worse on F1" in short
    assert "zero-shot loses" in short
    average = next(one for one in records(whole, "gains") if (one["label"], one["metric"]) == ("spt", "average"))
    assert float(average["p_holm"]) < 0.05
    assert "the paper's ten metrics: spt" in short


def test_columns_without_a_value_are_left_out() -> None:
    rows = (Row((Cell("a"), Cell(DASH), Cell("1"), Cell(DASH))), Row((Cell(DASH), Cell(DASH), Cell(DASH), Cell("2"))))
    table = without_empty(Table(("", "x", "y", "z"), rows))
    assert table.columns == ("", "y", "z")
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["a", "1", DASH], [DASH, DASH, "2"]]


def test_the_reference_has_no_differences_with_itself(whole: Path) -> None:
    assert "pt" not in {one["label"] for one in records(whole, "differences")}
    assert "pt" not in tables(section(whole, "Differences"))[0]


def test_the_highest_average_gain_stands_first(whole: Path) -> None:
    gains = {one["label"]: float(one["gain_percent"]) for one in records(whole, "gains") if one["metric"] == "average"}
    short = section(whole, "In short")
    lines = [line for line in short.splitlines() if "Average gain" in line]
    assert len(lines) == len(gains) == 5
    assert max(gains, key=gains.__getitem__) == "spt"
    assert lines[0].startswith("- spt: ")
    assert f"**Highest average gain: +{gains['spt']:.1f}%** (spt" in short


def test_a_metric_that_one_system_lacks_is_left_out_of_every_average(copy: Path) -> None:
    path = cell_folder(copy, "spt", 1) / "evaluation" / "top1" / "evaluation.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["metrics"]["values"]["bertscore_recall"]
    path.write_text(json.dumps(record), encoding="utf-8")
    gains = {(one["label"], one["metric"]): float(one["gain_percent"]) for one in records(copy, "gains")}
    recall = metric(copy, "zero-shot", 0, "bertscore_recall") / 50.0 - 1
    found = told(copy)
    assert found.average("zero-shot") == pytest.approx((10 * gains["zero-shot", "average"] - 100 * recall) / 9)
    assert "mean over 9 of the paper's ten metrics" in found.text
    assert "BERT-R was not measured for every system" in found.text
    assert tables(found.section("Results"))[0]["spt"]["BERT-R ↑"] == "–"


def test_bertscore_has_no_test_for_it_is_not_kept_for_single_replies(whole: Path) -> None:
    assert not {one["metric"] for one in records(whole, "differences")} & {"bertscore_f1", "persona_recall"}
    assert "BERT-F1, BERT-P and BERT-R were not kept for single replies everywhere" in text_of(whole)


def test_cells_that_failed_or_are_missing_are_named_and_the_others_count(tmp_path: Path) -> None:
    write_settings(tmp_path, METHODS)
    write_cell(tmp_path, "pt", 0, PT, size=SMALL)
    write_cell(tmp_path, "spt", 0, SPT, size=SMALL)
    write_record(tmp_path, "spt", 1, status="failed", error="TrainingError: the loss is not finite\n  in train\n^^^^")
    write_record(tmp_path, "pt", 1)
    cell_folder(tmp_path, "zero-shot", 0).mkdir(parents=True)
    found = told(tmp_path)
    faults = {(one.label, one.seed): one.reason for one in found.comparison.faults}
    assert faults["spt", 1] == "failed: TrainingError: the loss is not finite"
    assert faults["pt", 1] == "has no evaluation top1 that can be read"
    assert faults["zero-shot", 0] == faults["k@prompts.count=16", 1] == "is not finished"
    assert len(faults) == 9
    assert len(found.comparison.cells) == 2
    assert "9 cells are missing or failed" in found.section("In short")
    assert "- spt, seed 1: failed: TrainingError: the loss is not finite" in found.section("What was compared")
    assert "Average gain" in found.section("In short")


def test_a_failed_cell_with_an_old_evaluation_stays_out_of_the_tables(copy: Path) -> None:
    write_record(copy, "spt", 1, status="failed", error=None)
    found = told(copy)
    assert "[" not in tables(found.section("Results"))[0]["spt"]["F1 ↑"]
    assert "spt, seed 1: failed" in found.text


def test_a_cell_that_failed_in_a_further_decoding_stays_in_the_tables(copy: Path) -> None:
    before = tables(section(copy, "Results"))[0]["spt"]
    write_record(
        copy, "spt", 1, status="failed", error="MemoryError: no room\n^^^^", evaluations={"top1": ["generation"]}
    )
    found = told(copy)
    assert tables(found.section("Results"))[0]["spt"] == before
    assert "spt, seed 1: failed: MemoryError: no room" in found.text


def test_budgets_that_differ_are_told(copy: Path) -> None:
    assert "budgets differ" not in section(copy, "In short")
    for seed in (0, 1):
        write_record(copy, "spt", seed, train_tokens=9000)
    assert "spt was trained on 9,000 tokens, pt on 3,000: their budgets differ." in told(copy).section("In short")


def test_a_missing_reference_leaves_tables_without_gains(copy: Path) -> None:
    shutil.rmtree(copy / "cells" / "pt")
    write_comparison(copy)
    assert "There is nothing to compare with" in section(copy, "In short")
    assert "The reference pt has no complete cell" in section(copy, "What is missing here")
    assert "AVG gain ↑" not in tables(section(copy, "Results"))[0]["spt"]
    assert "## Differences" not in text_of(copy)
    assert not (copy / "plots" / "gains.png").exists()  # that of the earlier report is gone
    assert (copy / "plots" / "quality.png").exists()


def test_damaged_files_are_noted_and_the_rest_counts(copy: Path) -> None:
    (cell_folder(copy, "k@prompts.count=2", 0) / "cell.json").write_text("{", encoding="utf-8")
    (cell_folder(copy, "k@prompts.count=2", 1) / "evaluation" / "top1" / "evaluation.json").write_text("[]")
    (cell_folder(copy, "spt", 0) / "probe.json").write_text("{}", encoding="utf-8")
    (cell_folder(copy, "pt", 1) / "run" / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "tokens": "?"}\n')
    with (copy / TUNING_NAME).open("a", encoding="utf-8") as file:
        file.write('{"method": "pt", "lear\n')
    found = told(copy)
    notes = "\n".join(found.comparison.notes)
    for part in (
        "k@prompts.count=2/seed-0/cell.json",
        "spt/seed-0/probe.json",
        "seed-1/run/metrics.jsonl",
        TUNING_NAME,
    ):
        assert part in notes
    assert str(copy) not in found.text
    assert {(one.label, one.seed) for one in found.comparison.faults} == {
        ("k@prompts.count=2", 0),
        ("k@prompts.count=2", 1),
    }


def test_turns_that_are_missing_cost_only_their_own_tests(copy: Path) -> None:
    (cell_folder(copy, "spt", 1) / "evaluation" / "top1" / "turns.jsonl").unlink()
    found = told(copy)
    assert "perplexity" not in found.findings.differences["spt"]
    assert "f1" in found.findings.differences["spt"]
    assert "Average gain" in found.section("In short")


def test_without_settings_the_figures_are_still_there(copy: Path) -> None:
    (copy / SETTINGS_NAME).unlink()
    found = told(copy)
    assert "compare.yaml is missing" in found.section("What is missing here")
    assert set(tables(found.section("Results"))[0]) >= {"pt", "spt", "zero-shot"}


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no comparison"):
        write_comparison(tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        write_comparison(tmp_path / "nowhere")


def test_settings_alone_make_a_report_that_says_what_is_to_be_done(tmp_path: Path) -> None:
    write_settings(tmp_path, METHODS)
    written = write_comparison(tmp_path)
    assert (written.cells, written.plots) == (0, ())
    assert len(written.faults) == 11
    assert len(records(tmp_path, "missing")) == 11
    assert "## Results" not in text_of(tmp_path)


def test_one_seed_has_no_spread_and_says_so(tmp_path: Path) -> None:
    write_settings(tmp_path, {"pt": METHODS["pt"], "spt": METHODS["spt"]}, seeds=[3])
    write_cell(tmp_path, "pt", 3, PT, size=SMALL)
    write_cell(tmp_path, "spt", 3, SPT, size=SMALL)
    found = told(tmp_path)
    assert found.comparison.faults == ()
    assert "One seed only: nothing here says how much another seed would change" in found.text
    assert "±" not in tables(found.section("Results"))[0]["spt"]["F1 ↑"]
    assert "fewer than 20" in found.text


def test_one_prompt_only_has_no_choice_to_report(tmp_path: Path) -> None:
    write_settings(tmp_path, {"pt": METHODS["pt"], "lora": {"kind": "lora"}}, seeds=[0])
    write_cell(tmp_path, "pt", 0, PT, size=SMALL)
    write_cell(tmp_path, "lora", 0, PT, size=SMALL, kind="lora")
    write_comparison(tmp_path)
    assert "## Choice of prompts" not in text_of(tmp_path)
    assert not (tmp_path / "plots" / "usage.png").exists()
    assert records(tmp_path, "controls") == []


def test_the_same_files_give_the_same_report_byte_for_byte(copy: Path) -> None:
    def made() -> dict[str, bytes]:
        paths = [*copy.glob("report.*"), *copy.glob("plots/*"), *copy.glob("tables/*")]
        return {path.relative_to(copy).as_posix(): path.read_bytes() for path in paths}

    kept = {path: path.read_bytes() for path in copy.glob("cells/**/*") if path.is_file()}
    first = made()
    assert len(first) > 20
    for name in first:
        (copy / name).unlink()
    (copy / "plots" / "mine.png").write_bytes(b"mine")
    (copy / "plots" / "grid-old.png").write_bytes(b"old")
    write_comparison(copy)
    (copy / "plots" / "mine.png").unlink()
    assert made() == first
    assert kept == {path: path.read_bytes() for path in copy.glob("cells/**/*") if path.is_file()}


def test_what_was_written_is_named(written: WrittenComparison) -> None:
    assert {path.stem for path in written.plots} == {"gains", "quality", "usage", "curves", "grid-k"}
    assert all(path.is_file() for path in (written.markdown, written.page, *written.plots, *written.tables))
    assert (written.cells, written.faults, written.notes) == (11, (), ())


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_stands_by_itself(whole: Path) -> None:
    page = Page((whole / "report.html").read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    links = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("href", "src", "srcset")
    ]
    assert all(link and link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert sum(tag == "img" for tag, _ in page.tags) == 5


def test_costs_are_means_over_the_seeds(whole: Path) -> None:
    costs = tables(section(whole, "Results"))[2]["pt"]
    assert costs["trainable parameters"] == "350,784"
    assert costs["training tokens"] == "3,000"
    assert costs["training time"] == "3 min 20 s"  # of 200 s and 201 s
    assert costs["peak memory, GiB"] == "3.00"


def test_tuning_marks_the_best_rate_and_warns_at_the_edge(whole: Path) -> None:
    text = section(whole, "Tuning")
    row = tables(text)[0]["pt"]
    assert [row[f"rate {number}"] for number in (1, 2, 3)] == ["24.00 [0.01]", "23.00 [0.03]", "22.00 ✓ [0.1]"]
    assert row["seconds"] == "90"
    assert "pt: the best rate, 0.1, is the highest that was tried" in text
    assert "spt: the best rate" not in text
    assert "first 200 training dialogues" in text


def test_tables_in_csv_and_json_say_the_same(whole: Path) -> None:
    names = {path.stem for path in (whole / "tables").glob("*.csv")}
    assert names == {path.stem for path in (whole / "tables").glob("*.json")}
    for name in names:
        rows = json.loads((whole / "tables" / f"{name}.json").read_text(encoding="utf-8"))
        assert len(rows) == len(records(whole, name))
    cells = records(whole, "cells")
    assert {one["decoding"] for one in cells if one["label"] == "spt"} == {"top1", "random", "best-single"}
    assert float(cells[0]["f1"]) == metric(whole, "zero-shot", 0, "f1")
    curves = [one for one in records(whole, "curves") if (one["label"], one["seed"]) == ("pt", "1")]
    assert [(one["tokens"], one["perplexity"]) for one in curves] == [
        ("1000.0", "40.3"),
        ("2000.0", "30.3"),
        ("3000.0", "26.3"),
    ]


def test_how_to_make_it_again(whole: Path) -> None:
    text = section(whole, "How to make it again")
    assert "sptune compare runs/compare/invented/compare.yaml" in text
    assert "sptune compare report runs/compare/invented" in text
    assert "python 3.11.2, sptune 0.1.0" in text
    assert "Linux x86_64, 2 CPU cores" in text
    assert "prompts.count: 1" in text  # the settings
    assert "d" * 64 in text


@pytest.mark.parametrize("module", [one.name for one in pkgutil.walk_packages(report.__path__, f"{report.__name__}.")])
def test_the_examples_in_docstrings_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
