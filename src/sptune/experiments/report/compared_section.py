"""What was compared: on which data, with which settings, and which cells are in the tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sptune.config.compare import RERANK, UNTRAINED
from sptune.evaluation.result import EvaluationResult
from sptune.experiments.report.folder import Comparison
from sptune.experiments.report.system import System
from sptune.experiments.report.writing import DASH, listed
from sptune.report.differences import comparable, rough_intervals
from sptune.report.document import Block, Bullets, Paragraph, Row, Section, Table, Warnings, table_row

BUDGET_TOLERANCE = 0.1  # training tokens may differ by so much before it is told


def compared_section(comparison: Comparison) -> Section | None:
    """The data, the systems, and the cells that are missing."""
    blocks: list[Block] = []
    if comparison.systems:
        blocks.append(Table(("", ""), tuple(_data_rows(comparison)), wordy=True))
        columns = ("", "kind", "setting", "learning rate", "seeds", "decodings")
        rows = tuple(_system_row(system, comparison) for system in comparison.under_top1)
        blocks.append(Table(columns, rows, wordy=True))
    if comparison.faults:
        blocks.append(Paragraph("Cells that are missing or failed:"))
        blocks.append(Bullets(tuple(f"{one.label}, seed {one.seed}: {one.reason}" for one in comparison.faults)))
    return Section("What was compared", tuple(blocks)) if blocks else None


def comparison_warnings(comparison: Comparison) -> Warnings | None:
    """What a person should know before trusting the figures; None where there is nothing."""
    found = (*_fault_warnings(comparison), *_system_warnings(comparison))
    return Warnings(found) if found else None


def _data_rows(comparison: Comparison) -> Iterator[Row]:
    first = comparison.systems[0].results[0]
    if first.model:
        yield table_row("base model", first.model.base)
    if first.data:
        split = f", dialogues {first.data.split}" if first.data.split else ""
        count = f"{first.data.dialogues:,} dialogues, {first.data.turns:,} turns"
        yield table_row("test data", f"{first.data.path or 'in memory'}{split}: {count}")
    yield table_row("replies", _decoding(first))
    yield from _reranking(comparison)
    yield table_row("rules of the text metrics", str(first.settings.get("profile", "unknown")))
    yield table_row("BERTScore", first.settings.get("bertscore_model") or "not computed: no encoder was named")
    yield table_row("reference", comparison.reference.name if comparison.reference else "none")


def _decoding(result: EvaluationResult) -> str:
    decoding = result.settings.get("decoding") or {}
    beams = decoding.get("num_beams", 1)
    how = f"{beams} beams" if beams > 1 else "sampled" if decoding.get("temperature") else "greedy"
    most = decoding.get("max_new_tokens")
    return f"{how}, at most {most} new tokens" if most else how


def _reranking(comparison: Comparison) -> Iterator[Row]:
    """How candidates are drawn and chosen, once for each way."""
    found = [
        result.settings.get("rerank") for one in comparison.systems if one.decoding == RERANK for result in one.results
    ]
    ways = dict.fromkeys(_in_words(how) for how in found if how)
    return (table_row("replies of rerank", how) for how in ways)


def _in_words(how: dict[str, dict[str, Any]]) -> str:
    """What is sampled and what the candidates are weighed by; the seed is the cell's."""
    parts = ({key: value for key, value in part.items() if key != "seed"} for part in how.values())
    return "; ".join(", ".join(f"{key} {value}" for key, value in part.items()) for part in parts)


def _system_row(system: System, comparison: Comparison) -> Row:
    setting = ", ".join(f"{key} = {value}" for key, value in system.setting.items()) or DASH
    rates = sorted({cell.record.learning_rate for cell in system.cells if cell.record.learning_rate is not None})
    seeds = ", ".join(str(cell.record.seed) for cell in system.cells)
    learned = ", ".join(f"{rate:g}" for rate in rates) or DASH
    return table_row(system.name, system.kind, setting, learned, seeds, ", ".join(comparison.decodings_of(system)))


def _fault_warnings(comparison: Comparison) -> Iterator[str]:
    count = len(comparison.faults)
    if count:
        cells = "1 cell is" if count == 1 else f"{count} cells are"
        yield f"{cells} missing or failed: means are over the seeds that there are. See `What was compared`."
    seeds = {system.name: len(system.cells) for system in comparison.under_top1 if system.kind not in UNTRAINED}
    single = [label for label, number in seeds.items() if number == 1]
    if single and len(single) < len(seeds):
        yield f"One seed only, so no spread over seeds: {listed(single)}."
    elif single:
        yield "One seed only: nothing here says how much another seed would change."


def _budget_warnings(comparison: Comparison, reference: System) -> Iterator[str]:
    """Where a method was trained on more or fewer tokens than the reference."""
    base = _train_tokens(reference)
    for system in comparison.under_top1:
        own = _train_tokens(system)
        if base and own and abs(own / base - 1) > BUDGET_TOLERANCE:
            yield f"{system.name} was trained on {own:,.0f} tokens, {reference.name} on {base:,.0f}: their budgets differ."


def _train_tokens(system: System) -> float:
    """Tokens that a training read, mean over the seeds; 0 where nothing was trained or it is not known."""
    known = [cell.record.train_tokens for cell in system.cells if cell.record.train_tokens]
    return sum(known) / len(known) if known else 0.0


def _system_warnings(comparison: Comparison) -> Iterator[str]:
    reference = comparison.reference or (comparison.systems[0] if comparison.systems else None)
    if reference is None or reference.cells[0].main is None:
        return
    base = reference.cells[0].main
    for system in comparison.under_top1:
        differ = {what for cell in system.cells if cell.main for what in comparable(base, cell.main)}
        if differ:
            yield f"{system.name} cannot be compared with {reference.name}: they do not share {listed(sorted(differ))}."
    yield from _budget_warnings(comparison, reference)
    data = base.result.data
    if data and (rough := rough_intervals(data.dialogues)):
        yield rough
