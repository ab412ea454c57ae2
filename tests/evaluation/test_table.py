"""Tables of an evaluation: every figure once, in groups, on a terminal and as Markdown."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from sptune.evaluation.metrics.profile import Reply, compute
from sptune.evaluation.ranking import Ranking
from sptune.evaluation.result import DataInfo, EvaluationResult, ModelInfo
from sptune.evaluation.scoring import Likelihood
from sptune.evaluation.table import Table, caption, markdown, print_tables, tables
from sptune.model.figures import SelectionFigures

MODEL = ModelInfo("tiny", None, "0" * 64, "runs/a|b/adapter", "1" * 64, 2, 4, "paper", True, "float32")
DATA = DataInfo("talks.txt", "1:2", "self", 2, 6, "2" * 64)
LIKELIHOOD = Likelihood(6, 60, 240, 20.5, 1.25, (21.0, 30.0), 0, 21.0, 25.125, 18.0, 19.0)
SELECTION = SelectionFigures((0.75, 0.25), 0.811, 0.5, 0.0125, 0.25, 0.5)
RANKING = Ranking(4, 2, 19.5, 25.0, 50.0, 100.0, 0.4321)
REPORT = compute([Reply("i sail .", "i sail .", ("i sail .",), "a", 0), Reply("", "no", (), "a", 1)], profile="paper")


@pytest.fixture
def result() -> EvaluationResult:
    return EvaluationResult(MODEL, DATA, {}, LIKELIHOOD, SELECTION, RANKING, REPORT, {"other": "a | b"})


def test_groups_in_order(result: EvaluationResult) -> None:
    titles = [group.title for group in tables(result)]
    assert [title.split()[0] for title in titles] == [
        "Likelihood",
        "Selection",
        "Ranking",
        "Overlap",
        "Diversity",
        "Use",
        "Missing",
    ]
    assert all(len(row) == len(group.columns) for group in tables(result) for row in group.rows)


def test_every_metric_has_a_row_and_the_human_figure_beside_it(result: EvaluationResult) -> None:
    rows = {row[0]: row[1:] for group in tables(result) for row in group.rows}
    shown = {value for cells in rows.values() for value in cells}
    assert {f"{value:.2f}" for value in (*REPORT.values.values(), *REPORT.human.values())} <= shown
    assert rows["words a reply"] == ("1.50", "2.00")
    assert rows["empty replies, %"] == ("50.00", "")
    count = sum(
        len(group.rows) for group in tables(result) if group.title.split()[0] in ("Overlap", "Diversity", "Use")
    )
    assert count == len(REPORT.values)


def test_controls_are_named(result: EvaluationResult) -> None:
    rows = {row[0]: row[1] for group in tables(result) for row in group.rows}
    assert rows["perplexity, chosen prompt"] == "20.50"
    assert rows["perplexity, prompt 1"] == "30.00"
    assert rows["perplexity, best single prompt (0)"] == "21.00"
    assert rows["perplexity, random prompt"] in ("25.12", "25.13")
    assert rows["perplexity, oracle (hindsight)"] == "18.00"
    assert rows["perplexity, fused prompts"] == "19.00"
    assert rows["agrees with the best prompt"] == "50.0% (chance 50.0%)"
    assert rows["turns x candidates"] == "4 x 19.5"
    assert rows["turns without candidates"] == "2"


def test_gated_figures_are_shown_where_they_were_measured() -> None:
    def labels(found: Likelihood) -> list[str]:
        (only,) = tables(EvaluationResult(MODEL, DATA, {}, likelihood=found))
        return [f"{row[0]}: {row[1]}" for row in only.rows if "gate" in row[0]]

    measured = replace(LIKELIHOOD, gated_perplexity=19.5, mixture_perplexity=20.25)
    assert labels(measured) == ["perplexity, gated prompts: 19.50", "perplexity, one prompt drawn from the gate: 20.25"]
    assert labels(LIKELIHOOD) == []


def test_reasons_are_shared(result: EvaluationResult) -> None:
    missing = dict(tables(result)[-1].rows)
    assert "BERTScore F1, BERTScore precision, BERTScore recall" in missing
    assert missing["other"] == "a | b"


def test_groups_without_figures_are_left_out() -> None:
    bare = Likelihood(6, 60, 240, 20.5, 1.25, (20.5,), 0, 20.5, 20.5, 20.5, 20.5)
    (only,) = tables(EvaluationResult(MODEL, DATA, {}, likelihood=bare))
    assert [row[0] for row in only.rows] == ["perplexity", "bits per byte", "responses / tokens"]


def test_markdown_is_rectangular_and_escaped(result: EvaluationResult) -> None:
    text = markdown(tables(result))
    assert "| other | a \\| b |" in text
    assert "### Diversity of the replies\n\n|  | replies | human |\n|---|---:|---:|\n" in text
    assert "|  | why, and how to get it |\n|---|---|\n" in text
    for block in text.split("### ")[1:]:
        lines = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1


def test_a_terminal_shows_every_cell(result: EvaluationResult) -> None:
    stream = io.StringIO()
    print_tables(tables(result), Console(file=stream, width=100, force_terminal=False))
    shown = " ".join(stream.getvalue().split())
    for group in tables(result):
        assert shown.count(group.title) == 1
        assert all(word in shown for row in group.rows for cell in row for word in cell.split())


def test_figures_that_are_wider_than_the_terminal_run_on_and_words_are_folded(result: EvaluationResult) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=40, force_terminal=False)
    figures = tuple(f"{number}.25" for number in range(30))
    wide = Table("Wide", tuple(f"figure-{number}" for number in range(30)), (figures,))
    print_tables([wide, *tables(result)], console)
    lines = stream.getvalue().splitlines()
    assert next(line.split() for line in lines if "29.25" in line) == list(figures)
    assert next(line.split() for line in lines if "figure-29" in line) == list(wide.columns)
    missing = lines[lines.index("Missing") :]
    assert max(map(len, missing)) <= console.width == 40


def test_the_caption_names_model_and_data(result: EvaluationResult) -> None:
    assert (
        caption(result)
        == "runs/a|b/adapter on tiny, K = 2, L = 4: talks.txt [1:2], 2 dialogues, 6 turns, paper template"
    )
    again = EvaluationResult(None, None, {"generations": "g.jsonl", "profile": "paper"}, metrics=REPORT)
    assert caption(again) == "g.jsonl, paper rules"
