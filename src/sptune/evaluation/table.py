"""An evaluation as tables: for a terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from sptune.evaluation.metrics.profile import MetricReport
    from sptune.evaluation.ranking import Ranking
    from sptune.evaluation.result import EvaluationResult
    from sptune.evaluation.scoring import Likelihood
    from sptune.model.figures import SelectionFigures

OVERLAP = {
    "f1": "F1",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "meteor": "METEOR",
    "bertscore_f1": "BERTScore F1",
    "bertscore_precision": "BERTScore precision",
    "bertscore_recall": "BERTScore recall",
}
DIVERSITY = {
    "dist1": "DIST-1",
    "dist2": "DIST-2",
    "ead1": "DIST-1, expectation-adjusted",
    "ead2": "DIST-2, expectation-adjusted",
    "entropy4": "entropy-4, nats",
    "self_bleu": "self-BLEU",
    "unique": "unique replies, %",
    "repetition": "repetition, %",
    "words": "words a reply",
    "empty": "empty replies, %",
}
_WIDEST = 1000  # columns of a terminal
PERSONA = {"persona_recall": "persona recall", "copy_rate": "copy rate"}


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, the names of the columns, and rows of as many cells, which hold numbers unless they are `in_words`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    in_words: bool = False


def caption(result: EvaluationResult) -> str:
    """One line that says what was evaluated on what."""
    if result.model is None or result.data is None:
        return f"{result.settings.get('generations', 'replies')}, {result.settings.get('profile', '')} rules"
    model, data = result.model, result.data
    name = f"{model.adapter or 'model'} on {model.base}" if model.prompt_length else f"{model.base} without prompts"
    prompts = f", K = {model.prompts}, L = {model.prompt_length}" if model.prompt_length else ""
    place = f"{data.path or 'dialogues'}{f' [{data.split}]' if data.split else ''}"
    return f"{name}{prompts}: {place}, {data.dialogues} dialogues, {data.turns} turns, {model.template} template"


def tables(result: EvaluationResult) -> list[Table]:
    """The figures of `result` in groups; groups without figures are left out."""
    groups: list[Table] = []
    if result.likelihood:
        groups.append(Table("Likelihood of the gold responses", ("", "value"), tuple(_likelihood(result.likelihood))))
    if result.selection:
        groups.append(Table("Selection of prompts", ("", "value"), tuple(_selection(result.selection))))
    if result.ranking:
        groups.append(Table("Ranking of candidates", ("", "value"), tuple(_ranking(result.ranking))))
    if result.metrics:
        groups += _metrics(result.metrics)
    missing = _missing(result)
    return [*groups, Table("Missing", ("", "why, and how to get it"), missing, in_words=True)] if missing else groups


def markdown(groups: Sequence[Table]) -> str:
    """The tables as Markdown."""
    return "\n\n".join("\n".join(_markdown_lines(group)) for group in groups)


def print_tables(groups: Sequence[Table], console: Console) -> None:
    """The tables on a terminal."""
    from rich.box import SIMPLE
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

    for group in groups:
        table = RichTable(box=SIMPLE, show_header=len(group.columns) > 2)
        for number, column in enumerate(group.columns):
            table.add_column(
                column, justify="right" if number and not group.in_words else "left", no_wrap=not group.in_words
            )
        for row in group.rows:
            table.add_row(*map(Text, row))
        console.print(Text(group.title, style="bold"))
        terminal = console.width
        if not group.in_words:  # figures that are wider than the terminal run on rather than be cut
            console.width = max(
                terminal, Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
            )
        console.print(table)
        console.width = terminal


def _markdown_lines(group: Table) -> Iterator[str]:
    yield f"### {group.title}"
    yield ""
    yield f"| {' | '.join(group.columns)} |"
    yield "|---" + ("|---" if group.in_words else "|---:") * (len(group.columns) - 1) + "|"
    for row in group.rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _likelihood(found: Likelihood) -> Iterator[tuple[str, str]]:
    several = len(found.prompt_perplexity) > 1
    yield "perplexity, chosen prompt" if several else "perplexity", f"{found.perplexity:.2f}"
    yield "bits per byte, chosen prompt" if several else "bits per byte", f"{found.bits_per_byte:.3f}"
    if several:
        for number, value in enumerate(found.prompt_perplexity):
            yield f"perplexity, prompt {number}", f"{value:.2f}"
        yield f"perplexity, best single prompt ({found.best_prompt})", f"{found.best_prompt_perplexity:.2f}"
        yield "perplexity, random prompt", f"{found.random_perplexity:.2f}"
        yield "perplexity, fused prompts", f"{found.fused_perplexity:.2f}"
        if found.gated_perplexity is not None and found.mixture_perplexity is not None:
            yield "perplexity, gated prompts", f"{found.gated_perplexity:.2f}"
            yield "perplexity, one prompt drawn from the gate", f"{found.mixture_perplexity:.2f}"
        yield "perplexity, oracle (hindsight)", f"{found.oracle_perplexity:.2f}"
    yield "responses / tokens", f"{found.turns} / {found.tokens}"


def _selection(found: SelectionFigures) -> Iterator[tuple[str, str]]:
    for number, share in enumerate(found.usage):
        yield f"usage, prompt {number}", f"{share:.1%}"
    yield "entropy of usage (1 is even)", f"{found.entropy:.3f}"
    yield "agrees with the best prompt", f"{found.agreement:.1%} (chance {1 / len(found.usage):.1%})"
    yield "regret, nats a token", f"{found.regret:.4f}"
    yield "specialisation, nats a token", f"{found.specialisation:.4f}"
    yield "margin of scores", f"{found.margin:.4f}"


def _ranking(found: Ranking) -> Iterator[tuple[str, str]]:
    yield "hits@1, %", f"{found.hits_at_1:.2f}"
    yield "hits@5, %", f"{found.hits_at_5:.2f}"
    yield "hits@20, %", f"{found.hits_at_20:.2f}"
    yield "MRR", f"{found.mrr:.4f}"
    yield "turns x candidates", f"{found.turns} x {found.mean_candidates:.1f}"
    if found.turns_without_candidates:
        yield "turns without candidates", str(found.turns_without_candidates)


def _metrics(found: MetricReport) -> Iterator[Table]:
    overlap = tuple((label, f"{found.values[name]:.2f}") for name, label in OVERLAP.items() if name in found.values)
    yield Table("Overlap with the gold responses, %", ("", "replies"), overlap)
    for title, labels in (("Diversity of the replies", DIVERSITY), ("Use of the persona, %", PERSONA)):
        rows = tuple(
            (label, f"{found.values[name]:.2f}", f"{found.human[name]:.2f}" if name in found.human else "")
            for name, label in labels.items()
            if name in found.values
        )
        yield Table(title, ("", "replies", "human"), rows)


def _missing(result: EvaluationResult) -> tuple[tuple[str, str], ...]:
    """What is missing; names with the same reason share a row."""
    reasons: dict[str, list[str]] = {}
    for name, reason in {**result.missing, **(result.metrics.missing if result.metrics else {})}.items():
        reasons.setdefault(reason, []).append(OVERLAP.get(name, name))
    return tuple((", ".join(names), reason) for reason, names in reasons.items())
