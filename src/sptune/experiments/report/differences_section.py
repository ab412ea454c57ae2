"""Differences from the reference, figure by figure, with intervals and marks of significance."""

from __future__ import annotations

from collections.abc import Sequence

from sptune.experiments.report.columns import PAPER, SPECS
from sptune.experiments.report.findings import LEVEL, SAMPLES, Findings
from sptune.experiments.report.folder import Comparison
from sptune.experiments.report.results_section import results_of
from sptune.experiments.report.writing import difference_cell, listed
from sptune.report.document import Block, Cell, Paragraph, Row, Section, Table
from sptune.report.metric_specs import BETTER_MARK, human_value

_TABLES = (
    ("f1", "bleu", "rouge1", "rouge2", "rougeL"),
    ("bertscore_f1", "bertscore_precision", "bertscore_recall"),
    ("dist1", "dist2", "ead1", "ead2"),
    ("perplexity", "hits_at_1", "words"),
)


def differences_section(comparison: Comparison, findings: Findings) -> Section | None:
    """The differences; None where there are none."""
    if comparison.reference is None or not any(findings.differences.values()):
        return None
    tables = [table for keys in _TABLES if (table := _table(keys, comparison, findings))]
    return Section("Differences", (Paragraph(_explanation(comparison.reference.name, findings)), *tables))


def _explanation(name: str, findings: Findings) -> str:
    known = {key for found in findings.differences.values() for key in found}
    untested = [spec.label for spec in PAPER if spec.key not in known] + ["persona recall", "bits per byte"]
    return (
        f"System minus {name}, in the unit of the figure, each with its {LEVEL:.0%} interval. Paired bootstrap over whole "
        f"dialogues, {SAMPLES:,} resamples, all seeds together: each resample draws the same dialogues for every system and every "
        "seed, and averages over the seeds (for DIST and EAD four fifths of the dialogues, each once: a jackknife). So an interval "
        "says what other dialogues would change; what other seeds would change is "
        "the ± of the results. * p < 0.05, ** p < 0.01, *** p < 0.001, after Holm's correction over the systems for each figure, "
        f"where the interval leaves out 0 as well; better and worse are said only of these. {listed(untested)} have no test here."
    )


def _table(keys: Sequence[str], comparison: Comparison, findings: Findings) -> Block | None:
    shown = [key for key in keys if any(key in found for found in findings.differences.values())]
    specs = [SPECS[key] for key in shown]
    results = results_of(comparison)
    rows = []
    for system in comparison.systems:
        found = findings.differences.get(system.label, {})
        cells = []
        for spec in specs:
            base = comparison.reference.value(spec) if comparison.reference else None
            human = human_value(results, spec)
            cells.append(difference_cell(found.get(spec.key), spec, human, base.mean if base else 0.0))
        rows += [Row((Cell(system.name), *cells))] if found else []
    columns = ("", *(f"{spec.label} {BETTER_MARK[spec.better]}" for spec in specs))
    return Table(columns, tuple(rows)) if shown else None
