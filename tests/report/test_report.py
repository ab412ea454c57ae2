from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from invented_run import (
    HUMAN,
    WARNING,
    train_record,
    validation_record,
    write_evaluation,
    write_metrics,
    write_recipe,
    write_run,
)
from typer.testing import CliRunner

from sptune.cli.main import app
from sptune.errors import DataError
from sptune.evaluation.candidate_replies import Reranking, Sampling
from sptune.evaluation.generation import Generation
from sptune.evaluation.records import read_records, write_records
from sptune.evaluation.rerank import RerankWeights
from sptune.evaluation.result import GENERATIONS_NAME, load_result
from sptune.evaluation.run import Settings, as_json
from sptune.model.generate import Decoding
from sptune.report import figures, write_report
from sptune.report.closing import shown_folder
from sptune.report.differences import comparable, differences
from sptune.report.document import Cell, Commands, Paragraph, Row, Section, Table, Tile, Tiles
from sptune.report.markdown import escape, to_markdown
from sptune.report.metric_specs import GROUPS, MAIN_METRICS, find_spec
from sptune.report.overview import duration
from sptune.report.plots import style
from sptune.report.plots.score_map import TurnScores
from sptune.report.results import tone
from sptune.report.run_folder import Evaluated, read_run
from sptune.report.run_info import describe_run, load_run_info, save_run_info
from sptune.report.samples import MOST_SAMPLES, pick_samples
from sptune.report.selection import best_single_share, correlations
from sptune.report.write import make_document

VOID = {"meta", "img", "source", "br", "hr"}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Small pictures and few resamples: neither matters to what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "DPI", 30)
        patch.setattr("sptune.report.differences.SAMPLES", 50)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _quick: None) -> Path:
    """A complete run, with its report. Shared: tests do not change it."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "invented")
    write_report(folder)
    return folder


def markdown_of(folder: Path) -> str:
    """The report's text without drawing anything: as `report.md` says it, with every plot that could be there."""
    return to_markdown(make_document(read_run(folder), {}))


class Page(HTMLParser):
    """What a page holds: its tags with attributes, its text, and whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def links(self) -> Iterator[str]:
        for _, attributes in self.tags:
            yield from (value or "" for name, value in attributes.items() if name in ("href", "src", "srcset"))


def page_of(folder: Path) -> Page:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def rows_of(markdown: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of all rows of all tables; of rows that begin alike, the first."""
    found: dict[str, list[str]] = {}
    for line in markdown.splitlines():
        if line.startswith("| "):
            first, *others = (cell.strip() for cell in line[1:-1].split(" | "))
            found.setdefault(first, others)
    return found


def test_markdown_and_page_say_the_figures_of_all_systems(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    seen = " ".join(page_of(run).text.split())
    results = {name: load_result(run / "evaluation" / name) for name in ("base", "spt", "k1")}
    found = rows_of(text)
    perplexity = [f"{results[name].likelihood.perplexity:.2f}" for name in results]  # type: ignore[union-attr]
    f1 = [f"{results[name].metrics.values['f1']:.2f}" for name in results]  # type: ignore[union-attr]
    human = f"{results['spt'].metrics.human['dist2']:.2f}"  # type: ignore[union-attr]
    assert found["perplexity, chosen prompt ↓"][:4] == [*perplexity, "–"]
    assert found["F1, % ↑"][:4] == [*f1, "–"]
    assert found["DIST-2, % ↑"][3] == human
    for number in (*perplexity, *f1, human):
        assert number in seen
    assert "|  | bare model | SPT | k1 | human | SPT − bare model |" in text


def test_differences_have_sign_share_verdict_and_interval(run: Path) -> None:
    results = {name: load_result(run / "evaluation" / name) for name in ("base", "spt")}
    a, b = (results[name].likelihood.perplexity for name in ("spt", "base"))  # type: ignore[union-attr]
    cell = rows_of((run / "report.md").read_text(encoding="utf-8"))["perplexity, chosen prompt ↓"][4]
    expected = rf"−{b - a:.2f} \(−{100 * (b - a) / b:.0f}%\), better \[−[\d.]+ to −[\d.]+\]"
    assert re.fullmatch(expected, cell)


def test_without_an_interval_nothing_is_called_better_or_worse(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    [table] = [part for part in text.split("\n\n") if part.startswith("|  | bare model")]
    judged = [cells[4] for cells in rows_of(table).values() if "better" in cells[4] or "worse" in cells[4]]
    assert judged
    assert all("[" in cell for cell in judged)
    assert "The test data has 3 dialogues: with fewer than 20 all intervals are rough." in text


def test_further_evaluations_are_compared_with_their_interval(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "SPT − k1" in text
    table = text[text.index("SPT − k1") :]
    assert rows_of(table)["F1, % ↑"] == ["0.00 (0%) [0.00 to 0.00]"]  # the same replies


def test_selection_is_explained_in_sentences(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    figures_of = load_result(run / "evaluation" / "spt").selection
    assert figures_of is not None
    assert (
        "The retriever chose the best prompt in 50% of turns (chance 25%; choosing the same prompt always: up to 75%)"
        in text
    )
    assert f"costs {figures_of.regret:.3f} nats per token more" in text
    assert "4 of 4 prompts are chosen at all; evenness of use is 1.00" in text
    assert f"The best score leads the second best by {figures_of.margin:.3f} on average." in text


def test_what_was_run_is_said(run: Path) -> None:
    found = rows_of((run / "report.md").read_text(encoding="utf-8"))
    assert found["prompts"] == ["K = 4 of L = 8 virtual tokens, initialised from vocabulary"]
    assert found["training data"] == ["talks.txt, dialogues 1:90"]
    assert found["test data"] == ["talks.txt, dialogues 96:98"]
    assert found["trained"] == ["12 steps, 1.00 epochs: 60 turns, 1,200 tokens, each seen by every prompt"]
    assert found["adapter kept"] == ["that of step 12: lowest validation perplexity, 24.00"]
    assert found["evaluation of SPT"] == ["1 min 1 s, float32"]
    assert found["seed"] == ["0"]


def test_warnings_stand_at_the_top(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    assert text.index("Beware") < text.index("## What was run")
    assert f"> - Training, step 6 (⚠ 1 in the plot of usage): {WARNING}." in text
    assert WARNING in " ".join(page_of(run).text.split())
    assert "Choosing gains nothing" in text  # prompt 0 is nearly always the best one in the invented run


def test_samples_show_context_persona_and_every_reply(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    assert text.count("### Dialogue") == MOST_SAMPLES
    first = text[text.index("### Dialogue talk-0, turn 1") :]
    first = first[: first.index("###", 5)]
    for part in ("question 0 ?", "i mend clocks . i have a sister .", HUMAN[0], "bare model", "SPT", "k1"):
        assert part in first
    assert "prompt 0, score 1.00; the best other is prompt 1, 0.49" in first


def test_samples_show_no_replies_to_other_dialogues_of_the_same_ids(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "spt")
    write_evaluation(tmp_path, "k1", replies=["a reply to this ."] * 12)
    assert markdown_of(tmp_path).count("a reply to this .") == MOST_SAMPLES
    path = tmp_path / "evaluation" / "k1" / GENERATIONS_NAME
    others = [replace(one, reference=f"{one.reference} so .") for one in read_records(path, Generation)]
    write_records(path, others)
    assert "a reply to this ." not in markdown_of(tmp_path)


@pytest.mark.parametrize("unfinished", [True, False, None])
def test_only_replies_that_nothing_ended_are_called_cut(tmp_path: Path, unfinished: bool | None) -> None:
    write_evaluation(tmp_path, "spt")
    path = tmp_path / "evaluation" / "spt" / GENERATIONS_NAME
    spoken = [replace(one, tokens=32, unfinished=unfinished) for one in read_records(path, Generation)]
    write_records(path, spoken)
    text = markdown_of(tmp_path)
    assert text.count("cut at 32 tokens") == (MOST_SAMPLES if unfinished else 0)
    assert (f"{len(spoken)} of {len(spoken)} replies came to no end within 32 tokens" in text) == bool(unfinished)


def test_how_to_go_on_names_commands_with_relative_paths(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "sptune chat runs/invented/adapter" in text
    assert (
        "sptune evaluate runs/invented/adapter --data talks.txt --split 96:98 --output runs/invented/evaluation/NAME"
        in text
    )
    assert "sptune report runs/invented" in text
    assert "d" * 64 in text
    assert "sptune train runs/invented/recipe.yaml output=runs/invented-again" in text
    assert "max_length: 512" in text  # the whole recipe
    assert str(run) not in text
    assert str(run) not in page_of(run).text


def test_links_are_relative_and_lead_somewhere(run: Path) -> None:
    targets = re.findall(r"\]\(([^)]*)\)", (run / "report.md").read_text(encoding="utf-8"))
    assert targets == [f"plots/{name}.png" for name in ("comparison", "scores", "usage", "similarity", "losses")]
    for target in targets:
        assert (run / target).read_bytes().startswith(b"\x89PNG")
        assert (run / target).stat().st_size > 2000


def test_the_page_needs_nothing_from_elsewhere(run: Path) -> None:
    page = page_of(run)
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for link in page.links():
        assert link.startswith("data:image/png;base64,iVBOR") or link[1:] in anchors
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_the_page_has_plots_for_light_and_dark_with_descriptions(run: Path) -> None:
    page = page_of(run)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    dark = [attributes for tag, attributes in page.tags if tag == "source"]
    assert len(pictures) == len(dark) == len(figures.NAMES)
    assert all(attributes["alt"] for attributes in pictures)
    assert all(attributes["media"] == "(prefers-color-scheme: dark)" for attributes in dark)
    assert not {attributes["src"] for attributes in pictures} & {attributes["srcset"] for attributes in dark}
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_every_row_of_a_table_has_as_many_cells_as_its_head(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_same_files_give_the_same_report(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = {path.name: path.read_bytes() for path in (copy / "plots").iterdir()}
    before |= {name: (copy / name).read_bytes() for name in ("report.md", "report.html")}
    (copy / "report.html").unlink()
    write_report(copy)
    after = {path.name: path.read_bytes() for path in (copy / "plots").iterdir()}
    assert before == after | {name: (copy / name).read_bytes() for name in ("report.md", "report.html")}


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    write_recipe(tmp_path, data={"path": "<img src=x onerror=alert(1)>.txt", "train": "1:9"})
    (tmp_path / "metrics.jsonl").write_text(json.dumps(train_record(1, warnings=["<b>`</b> | x"])) + "\n")
    replies = ["<script>alert('x')</script>", "a | b\n\n# c `d` **e** [f](javascript:g)", "", "</article></main>"]
    write_evaluation(tmp_path, "spt", replies=replies)
    write_evaluation(tmp_path, "<i>$k1$", prompts=1, replies=replies)
    write_report(tmp_path)
    page = page_of(tmp_path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert sum(tag == "article" for tag, _ in page.tags) == page.text.count("Dialogue talk-")
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert('x')</script>" in page.text
    assert "</article></main>" in page.text
    assert "<i>$k1$" in page.text
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    prose = re.sub(r"```\n.*?```", "", text, flags=re.DOTALL)
    assert not re.search(r"<(?!/?details>|/?summary>)", prose)
    assert r"a \| b # c \`d\` \*\*e\*\* \[f\](javascript:g)" in text
    assert "(empty)" in text


def test_a_run_of_one_prompt_says_so_and_has_no_plots_of_selection(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", prompts=1)
    write_report(folder)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "K = 1: there is no choice of prompts" in text
    assert "## Choice of prompts" not in text
    assert "retriever" not in rows_of(text)
    assert sorted(path.name for path in (folder / "plots").iterdir()) == ["comparison.png", "losses.png"]


def test_plots_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    write_metrics(tmp_path)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "scores.png").write_bytes(b"old")
    (tmp_path / "plots" / "mine.png").write_bytes(b"kept")
    write_report(tmp_path)
    assert not (tmp_path / "plots" / "scores.png").exists()
    assert (tmp_path / "plots" / "mine.png").exists()


def test_a_validation_of_prompts_that_were_still_one_is_not_of_the_adapter(tmp_path: Path) -> None:
    """They cannot be kept, however good they were (`training.shared`)."""
    run = write_run(tmp_path / "run")
    one = validation_record(2, perplexity=1.0, parted=False)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(one) + "\n")
    kept = read_run(run).kept
    assert kept
    assert kept["step"] == 12


def test_without_validation_the_report_says_so(tmp_path: Path) -> None:
    text = markdown_of(write_run(tmp_path / "run", validates=False))
    assert "There are no validation figures" in text
    assert "adapter kept" not in text


def test_without_an_evaluation_the_figures_are_those_of_the_validation(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    write_metrics(tmp_path)
    text = markdown_of(tmp_path)
    assert "The run has not been evaluated" in text
    assert "**Validation perplexity: 24.00** (at step 12)" in text
    assert "The retriever chose the best prompt in 40% of turns (chance 25%)." in text
    assert "On the validation turns, at step 12 prompt 0 is chosen in 100% of turns" in text
    assert "## Results" not in text
    assert "## Sample replies" not in text


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    write_metrics(tmp_path)
    text = markdown_of(tmp_path)
    assert "training has not ended" in text
    assert "sptune train runs/invented/recipe.yaml --resume" in text
    assert "sptune chat" not in text


def test_without_recipe_and_metrics_the_evaluation_still_counts(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "spt")
    write_evaluation(tmp_path, "base", prompts=1, worse=1.0)
    text = markdown_of(tmp_path)
    assert "recipe.yaml is missing" in text
    assert "metrics.jsonl is missing" in text
    assert "perplexity, chosen prompt" in text


def test_a_cut_line_is_left_out_and_counted(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    write_metrics(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('[]\n{"kind": "train", "step": 13, "usage": "x"}\n{"kind": "train", "st')
    assert len(read_run(tmp_path).train) == 12
    assert "3 line(s) of metrics.jsonl are cut short or damaged" in markdown_of(tmp_path)


def test_figures_that_were_not_finite_are_left_out(tmp_path: Path) -> None:
    lines = [train_record(1, llm=None, usage=None), train_record(2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_report(tmp_path)
    assert (tmp_path / "plots" / "losses.png").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("evaluation.json", "evaluation.json: cannot be read"),
        ("turns.jsonl", "turns.jsonl:1: "),
        ("generations.jsonl", "generations.jsonl:1: "),
    ],
)
def test_a_damaged_evaluation_is_noted(tmp_path: Path, damage: str, said: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "evaluation" / "spt" / damage).write_text("{", encoding="utf-8")
    assert any(said in note for note in read_run(folder).notes)
    text = markdown_of(folder)
    assert "What is missing here" in text
    assert "bare model" in text


def test_an_evaluation_that_was_not_finished_is_noted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "evaluation" / "half").mkdir()
    assert "evaluation/half has no evaluation.json" in markdown_of(folder)


def test_turns_that_do_not_fit_together_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "evaluation" / "spt" / "turns.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([json.dumps(json.loads(lines[0]) | {"scores": [1.0]}), *lines[1:]]), encoding="utf-8")
    run = read_run(folder)
    assert run.main is not None
    assert run.main.turns == ()
    assert any("different numbers of prompts" in note for note in run.notes)


def test_a_recipe_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "recipe.yaml").write_text("colour: red\n", encoding="utf-8")
    assert "colour: unknown key" in markdown_of(folder)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="holds no run"):
            write_report(folder)


def test_evaluations_of_other_data_are_not_comparable(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_evaluation(folder, "base", prompts=1, sha256="c" * 64)
    assert "bare model cannot be compared with SPT: they do not share the dialogues." in markdown_of(folder)
    run = read_run(folder)
    assert run.main is not None
    assert comparable(run.main, run.main) == []


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"kind": "top1", "gate_temperature": 0.1}, {"kind": "top1", "gate_temperature": 0.05}, False),
        ({"kind": "gated", "gate_temperature": 0.1}, {"kind": "gated", "gate_temperature": 0.05}, True),
        ({"kind": "top1", "num_beams": 1}, {"kind": "top1", "num_beams": 10}, True),
    ],
)
def test_only_a_gate_that_speaks_is_part_of_decoding(run: Path, one: Any, other: Any, told: bool) -> None:
    main = read_run(run).main
    assert main is not None
    first, second = (
        replace(main, result=replace(main.result, settings=main.result.settings | {"decoding": decoding}))
        for decoding in (one, other)
    )
    assert comparable(first, second) == (["the decoding"] if told else [])


def settled(one: Evaluated, *, prompts: int = 4, **settings: Any) -> Evaluated:
    """`one` as an evaluation with other settings."""
    assert one.result.model
    asked = one.result.settings | as_json(Settings(**settings))
    return replace(one, result=replace(one.result, model=replace(one.result.model, prompts=prompts), settings=asked))


def drawn(**sampling: Any) -> Reranking:
    return Reranking(Sampling(**sampling), RerankWeights(likelihood="fused"))


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"rerank": drawn()}, {}, ["the decoding"]),
        ({"rerank": drawn()}, {"prompts": 1}, ["the decoding"]),
        ({"rerank": drawn(candidates=4)}, {"rerank": drawn(candidates=8)}, ["the decoding"]),
        ({"rerank": drawn(seed=0)}, {"rerank": drawn(seed=1)}, []),
        ({"rerank": drawn(source="each")}, {"rerank": drawn(source="top1")}, ["the decoding"]),
        ({"rerank": drawn(source="each")}, {"rerank": drawn(source="top1"), "prompts": 1}, []),
        ({"decoding": Decoding(kind="fused")}, {"decoding": Decoding(kind="top1")}, ["the decoding"]),
        ({"decoding": Decoding(kind="fused")}, {"decoding": Decoding(kind="top1"), "prompts": 1}, []),
        ({"bertscore_model": "a"}, {"bertscore_model": "b"}, ["the encoder of BERTScore"]),
        ({"bertscore_model": "a"}, {}, []),
    ],
)
def test_who_speaks_candidates_and_encoders_are_compared(run: Path, one: Any, other: Any, told: list[str]) -> None:
    main = read_run(run).main
    assert main is not None
    first, second = settled(main, **one), settled(main, **other)
    assert comparable(first, second) == comparable(second, first) == told


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rerank": drawn(candidates=24)}, "replies are the best of 24 candidates, at most 32 new tokens;"),
        ({"decoding": Decoding(kind="fused")}, "replies are decoded greedily by all prompts together (fused), at most"),
        ({"decoding": Decoding(kind="fused"), "prompts": 1}, "replies are decoded greedily, at most 32 new tokens;"),
    ],
)
def test_how_replies_were_made_is_said(run: Path, settings: Any, words: str) -> None:
    found = read_run(run)
    assert found.main is not None
    told = replace(found, evaluations={"spt": settled(found.main, **settings)})
    assert words in to_markdown(make_document(told, {})).replace("\\", "")


def test_differences_need_the_same_turns(run: Path) -> None:
    found = read_run(run)
    assert found.main is not None
    same = differences(found.main, found.main)
    assert set(same) == {"perplexity", "f1", "bleu", "dist1", "dist2"}
    assert all(one.difference == one.low == one.high == 0 for one in same.values())
    fewer = replace(found.main, turns=found.main.turns[1:], generations=found.main.generations[1:])
    assert differences(found.main, fewer) == {}
    other_talks = replace(
        found.main,
        turns=tuple(replace(turn, bytes=(turn.bytes or 0) + 1) for turn in found.main.turns),
        generations=tuple(replace(one, reference=f"{one.reference} so .") for one in found.main.generations),
    )
    assert differences(found.main, other_talks) == {}
    ruled = replace(found.main.result, settings=found.main.result.settings | {"profile": "standard"})
    assert set(differences(found.main, replace(found.main, result=ruled))) == {"perplexity"}


@pytest.mark.parametrize(
    ("key", "value", "other", "human", "expected"),
    [
        ("f1", 2.0, 1.0, None, "better"),
        ("self_bleu", 2.0, 1.0, None, "worse"),
        ("words", 8.0, 20.0, 10.0, "better"),
        ("words", 8.0, 11.0, 10.0, "worse"),
        ("words", 8.0, 11.0, None, "plain"),
        ("f1", 1.0, 1.0, None, "plain"),
        ("f1", 1.0, None, None, "plain"),
    ],
)
def test_good_and_bad_news(key: str, value: float, other: float | None, human: float | None, expected: str) -> None:
    assert tone(value, other, human, find_spec("metrics", key)) == expected


def test_every_metric_of_an_evaluation_has_a_row_and_the_main_ones_exist(run: Path) -> None:
    metrics = load_result(run / "evaluation" / "spt").metrics
    assert metrics is not None
    shown = {spec.key for group in GROUPS.values() for spec in group if spec.part == "metrics"}
    assert set(metrics.values) <= shown
    for part, key, _ in MAIN_METRICS:
        find_spec(part, key)


def test_correlations_follow_scores_and_losses() -> None:
    def turns(*rows: tuple[tuple[float, ...], tuple[float, ...]]) -> list[TurnScores]:
        return [TurnScores(0, scores, losses) for scores, losses in rows]

    assert correlations(turns(((1.0, 0.0), (2.0, 3.0)), ((0.0, 1.0), (5.0, 4.0)))) == pytest.approx((1.0, 1.0))
    assert correlations(turns(((0.0, 1.0), (2.0, 3.0)), ((1.0, 0.0), (5.0, 4.0)))) == pytest.approx((-1.0, -1.0))
    # the same scores on every turn know nothing of the single turn
    assert correlations(turns(((1.0, 0.0), (2.0, 3.0)), ((1.0, 0.0), (2.0, 2.5)))) == pytest.approx((0.9486833, 0.0))
    assert correlations(turns(((1.0, 1.0), (2.0, 3.0)))) is None
    assert correlations([TurnScores(0, (1.0, 0.0))]) is None


def test_the_best_single_prompt_is_the_one_that_is_best_most_often() -> None:
    losses = [(1.0, 2.0), (1.0, 2.0), (2.0, 1.0), (1.0, 3.0)]
    assert best_single_share([TurnScores(0, (1.0, 0.0), row) for row in losses]) == 0.75
    assert best_single_share([TurnScores(0, (1.0, 0.0))]) is None


def test_samples_are_shared_out_among_the_prompts_and_stay_in_order() -> None:
    made = [Generation("a", n, (), "", str(n), "", 1 if n in (17, 30) else 0, (0.0, 0.0), 0.0, 1) for n in range(40)]
    picked = pick_samples(made)
    assert len(picked) == MOST_SAMPLES
    assert [one.turn for one in picked] == sorted(one.turn for one in picked)
    assert [one.turn for one in picked if one.prompt == 1] == [17, 30]
    assert pick_samples(made) == picked
    assert pick_samples(made[:3]) == made[:3]
    assert pick_samples([]) == []


def test_command_time_and_machine_come_from_the_runs_own_record(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    begun = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    info = describe_run("sptune train invented.yaml", started=begun, seconds=192.04)
    save_run_info(folder, info)
    assert load_run_info(folder) == info
    found = rows_of(markdown_of(folder))
    assert found["time"] == ["3 min 12 s of training, begun 2030-01-02T03:04:05+00:00"]
    assert found["machine"] == [escape(info.machine)]
    assert "torch " in found["versions"][0]
    assert "sptune train invented.yaml" in markdown_of(folder)
    (folder / "run.json").write_text("{}", encoding="utf-8")
    assert "time, machine and versions of the run are not known" in markdown_of(folder)


def test_durations_are_said_in_two_units_at_most() -> None:
    assert [duration(seconds) for seconds in (7, 59.6, 192, 7380)] == ["7 s", "1 min 0 s", "3 min 12 s", "2 h 3 min"]


def test_an_absolute_output_folder_is_shown_by_its_name(tmp_path: Path) -> None:
    write_recipe(tmp_path, output=str(tmp_path / "somewhere" / "here"))
    assert str(shown_folder(read_run(tmp_path))) == "here"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("<script>&", "&lt;script&gt;&amp;"),
        ("a | b", r"a \| b"),
        ("1. one", r"1\. one"),
        ("- dash", r"\- dash"),
        ("# head", r"\# head"),
        ("20.15 and 3)", "20.15 and 3)"),
        ("snake_case _so_", r"snake_case \_so\_"),
        ("two\n\nlines", "two lines"),
        ("$x$ `y`", r"\$x\$ \`y\`"),
    ],
)
def test_markdown_escapes_what_would_be_markup_and_nothing_else(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_code_holds_any_number_of_backticks() -> None:
    document = make_document_of(Commands("a ``` b"))
    assert "````\na ``` b\n````" in document


def test_an_odd_backtick_in_a_sentence_opens_no_code() -> None:
    assert r"an odd \` \&lt;b\&gt;".replace(r"\&", "&") in make_document_of(Paragraph("an odd ` <b>"))
    assert "run `a <b>` now" in make_document_of(Paragraph("run `a <b>` now"))


def test_a_table_of_headings_and_details() -> None:
    table = Table(("", "a"), (Row((Cell("group"),), heading=True), Row((Cell("x"), Cell("1", "better", "0 to 2")))))
    assert "| **group** |  |\n| x | 1, better [0 to 2] |" in make_document_of(table)


def test_a_tile_without_anything_to_compare_with_has_no_brackets() -> None:
    text = make_document_of(Tiles((Tile("Perplexity", "24.75", ""), Tile("F1, %", "9.10", "human 10.00"))))
    assert "- **Perplexity: 24.75**\n- **F1, %: 9.10** (human 10.00)" in text


def make_document_of(block: Paragraph | Commands | Table | Tiles) -> str:
    from sptune.report.document import Document

    return to_markdown(Document("t", "s", (Section("Part", (block,)),)))


def test_the_command_writes_the_report_and_names_it(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    write_metrics(tmp_path)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "report.html") in done.output
    assert (tmp_path / "report.html").exists()
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert isinstance(refused.exception, DataError)
