"""The figures of all systems: the paper's table with its column of average gains, and the figures beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sptune.evaluation.result import EvaluationResult
from sptune.experiments.report.columns import FURTHER, PAPER, SPECS
from sptune.experiments.report.findings import AVERAGE, Findings
from sptune.experiments.report.folder import Comparison
from sptune.experiments.report.system import OverSeeds, System
from sptune.experiments.report.writing import DASH, figure_cell, interval, listed, verdict, without_empty
from sptune.report.document import Block, Bullets, Cell, Details, Paragraph, Row, Section, Table, signed
from sptune.report.metric_specs import BETTER_MARK, MetricSpec, human_value
from sptune.report.overview import duration

HUMAN = "human responses"
_MARKS = {"better": " ▲", "worse": " ▼", "plain": ""}


def results_section(comparison: Comparison, findings: Findings, plots: Sequence[Block]) -> Section | None:
    """The tables of figures; None without systems."""
    if not comparison.systems:
        return None
    blocks: list[Block] = [
        _table(comparison, findings, PAPER, average=True),
        Paragraph(_legend(comparison)),
        *([Paragraph(_average_rule(comparison.reference, findings))] if comparison.reference else []),
        *plots,
        _table(comparison, findings, FURTHER, average=False),
        _costs(comparison),
        Paragraph(
            "Training time, evaluation time (of all decodings) and peak memory are of the process that made the cell; processes that "
            "ran at once slow one another down."
        ),
    ]
    rules, missing = _rules(results_of(comparison)), _missing(results_of(comparison))
    blocks += [Details("Figures that were not computed, and how to get them", (Bullets(missing),))] if missing else []
    blocks += [Details("How each figure is computed", (Table(("figure", "rule"), rules, wordy=True),))] if rules else []
    return Section("Results", tuple(blocks))


def results_of(comparison: Comparison) -> list[EvaluationResult]:
    """The evaluations of all systems."""
    return [result for system in comparison.systems for result in system.results]


def _table(comparison: Comparison, findings: Findings, specs: Sequence[MetricSpec], *, average: bool) -> Table:
    shown = [spec for spec in specs if any(system.value(spec) for system in comparison.systems)]
    results = results_of(comparison)
    gain = average and comparison.reference is not None
    columns = (
        "",
        *(f"{spec.label} {BETTER_MARK[spec.better]}" for spec in shown),
        *((_average_label(findings),) if gain else ()),
    )
    rows = [_row(system, comparison, findings, shown, gain=gain) for system in comparison.systems]
    human = [human_value(results, spec) for spec in shown]
    if any(value is not None for value in human):
        cells = [
            Cell(DASH if value is None else f"{value:,.{spec.decimals}f}")
            for spec, value in zip(shown, human, strict=True)
        ]
        rows.append(Row((Cell(HUMAN), *cells, *((Cell(DASH),) if gain else ()))))
    return Table(columns, tuple(rows))


def _row(system: System, comparison: Comparison, findings: Findings, specs: Sequence[MetricSpec], *, gain: bool) -> Row:
    results = results_of(comparison)
    found = findings.differences.get(system.label, {})
    cells = []
    for spec in specs:
        base = comparison.reference.value(spec) if comparison.reference else None
        human = human_value(results, spec)
        judged = verdict(found.get(spec.key), spec, human, base.mean) if base else "plain"
        cells.append(figure_cell(system.value(spec), spec.decimals, mark=_MARKS[judged]))
    return Row((Cell(system.name), *cells, *((_average(system, comparison, findings),) if gain else ())))


def _average_label(findings: Findings) -> str:
    return "AVG gain ↑" if len(findings.averaged) == len(PAPER) else f"AVG gain of {len(findings.averaged)} ↑"


def _average(system: System, comparison: Comparison, findings: Findings) -> Cell:
    if system is comparison.reference:
        return Cell("reference")
    found = findings.gains.get(system.label, {}).get(AVERAGE)
    if found is None:
        return Cell(DASH)
    return Cell(f"{signed(found.chance.difference, 2)}%", detail=interval(found.chance, 1))


def _legend(comparison: Comparison) -> str:
    text = "Figures are means over the seeds; ± is their sample standard deviation over the seeds. "
    if len(comparison.systems) > len(comparison.under_top1):
        text += (
            "A name with a decoding in brackets is the same model, speaking by that decoding; without, by its chosen prompt alone. "
            "Perplexity there is that of the distribution that speaks; replies chosen among candidates (rerank) have none. "
        )
    if comparison.reference is None:
        return f"{text}There is no reference to compare with."
    return (
        f"{text}▲ and ▼: better and worse than {comparison.reference.name}, with p < 0.05 after Holm's correction over "
        "the systems and an interval that leaves out 0 (`Differences`); "
        "a figure without a mark is no different beyond noise, or was not tested. The last row "
        "measures the human responses themselves, where that needs no reference."
    )


def _average_rule(reference: System, findings: Findings) -> str:
    left_out = [spec.label for spec in PAPER if spec.key not in findings.averaged]
    fixed = [SPECS[name].label for name in findings.fixed]
    count = "" if not left_out else f"{len(findings.averaged)} of "
    text = (
        f"AVG gain is the mean over {count}the paper's ten metrics of `100 (m − r) / r`, with "
        f"m the system's and r the figure of {reference.name}, both means over the seeds; its 95% interval "
        "stands with it."
    )
    if left_out:
        text += f" {listed(left_out)} {_were(left_out)} not measured for every system, or 0 for the reference, and left out of every average."
    if fixed:
        text += f" {listed(fixed)} {_were(fixed)} not kept for single replies everywhere; there the interval holds what is lacking fixed."
    return text


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _costs(comparison: Comparison) -> Table:
    writers: dict[str, tuple[str, Callable[[float], str]]] = {
        "trainable_parameters": ("trainable parameters", lambda value: f"{value:,.0f}"),
        "train_tokens": ("training tokens", lambda value: f"{value:,.0f}"),
        "train_seconds": ("training time", duration),
        "evaluate_seconds": ("evaluation time", duration),
        "train_peak_memory_bytes": ("peak memory in training, GiB", _gibibytes),
        "peak_memory_bytes": ("peak memory, GiB", _gibibytes),
    }

    def written(value: OverSeeds | None, name: str) -> Cell:
        return Cell(DASH if value is None else writers[name][1](value.mean))

    rows = [
        Row((Cell(system.name), *(written(system.cost(name), name) for name in writers)))
        for system in comparison.under_top1
    ]
    return without_empty(Table(("", *(label for label, _ in writers.values())), tuple(rows)))


def _gibibytes(value: float) -> str:
    return f"{value / 2**30:.2f}"


def _rules(results: Sequence[EvaluationResult]) -> tuple[Row, ...]:
    report = next((result.metrics for result in results if result.metrics), None)
    keys = [spec for spec in SPECS.values() if report and spec.key in report.rules]
    return tuple(Row((Cell(spec.label), Cell(report.rules[spec.key]))) for spec in keys if report)


def _missing(results: Sequence[EvaluationResult]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_missing_lines(results)))


def _missing_lines(results: Sequence[EvaluationResult]) -> Iterator[str]:
    for result in results:
        for name, reason in {**result.missing, **(result.metrics.missing if result.metrics else {})}.items():
            yield f"{SPECS[name].label if name in SPECS else name}: {reason}."
