"""Figures of systems as the cells of tables."""

from __future__ import annotations

from collections.abc import Iterable

from sptune.evaluation.significance import BootstrapResult
from sptune.experiments.report.findings import Finding
from sptune.experiments.report.system import OverSeeds
from sptune.report.document import Cell, Row, Table, Tone, signed
from sptune.report.metric_specs import MetricSpec

DASH = "–"
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


def figure_cell(value: OverSeeds | None, decimals: int, *, mark: str = "") -> Cell:
    """A mean, with its spread over the seeds below."""
    if value is None:
        return Cell(DASH)
    spread = "" if value.spread is None else f"±{value.spread:,.{decimals}f}"
    return Cell(f"{value.mean:,.{decimals}f}{mark}", detail=spread)


def interval(chance: BootstrapResult, decimals: int) -> str:
    """Both ends of an interval."""
    return f"{signed(chance.low, decimals)} to {signed(chance.high, decimals)}"


def p_text(p_value: float) -> str:
    """A p-value in words, none smaller than the approximation behind it can tell.

    >>> p_text(0.0312), p_text(1e-9)
    ('p 0.031', 'p < 0.0001')
    """
    return f"p {p_value:.2g}" if p_value >= 1e-4 else "p < 0.0001"


def stars(found: Finding) -> str:
    """Marks of significance: `*` below 0.05, `**` below 0.01, `***` below 0.001; none where it is not significant."""
    return next((mark for limit, mark in STARS if found.significant and found.p_adjusted < limit), "")


def difference_cell(found: Finding | None, spec: MetricSpec, human: float | None, reference: float) -> Cell:
    """A difference from the reference with its marks, and its interval below."""
    if found is None:
        return Cell(DASH)
    chance = found.chance
    judged = verdict(found, spec, human, reference)
    return Cell(f"{signed(chance.difference, spec.decimals)}{stars(found)}", judged, interval(chance, spec.decimals))


def gain_cell(found: Finding | None) -> Cell:
    """A gain in percent with its marks, and its interval below."""
    if found is None:
        return Cell(DASH)
    text = f"{signed(found.chance.difference, 1)}%{stars(found)}"
    judged: Tone = "better" if found.chance.difference > 0 else "worse"
    return Cell(text, judged if found.significant else "plain", interval(found.chance, 1))


def verdict(found: Finding | None, spec: MetricSpec, human: float | None, reference: float) -> Tone:
    """Whether a difference is significant, and for good or bad; `reference` is the reference's figure."""
    from sptune.report.results import tone

    if found is None or not found.significant:
        return "plain"
    return tone(reference + found.chance.difference, reference, human, spec)


def without_empty(table: Table) -> Table:
    """`table`, of rows that are no headings, without the columns that hold no value in any of them."""
    kept = [n for n in range(len(table.columns)) if n == 0 or any(row.cells[n].text != DASH for row in table.rows)]
    rows = tuple(Row(tuple(row.cells[n] for n in kept)) for row in table.rows)
    return Table(tuple(table.columns[n] for n in kept), rows)


def listed(names: Iterable[str]) -> str:
    """Names in a sentence.

    >>> listed(["F1"]), listed(["F1", "BLEU", "R-1"])
    ('F1', 'F1, BLEU and R-1')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
