"""The top of the report, in plain sentences: what beats the reference beyond noise, on which figures, and what does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sptune.experiments.report.columns import NAMES, PAPER, SPECS
from sptune.experiments.report.compared_section import comparison_warnings
from sptune.experiments.report.findings import (
    ADJUSTED,
    AVERAGE,
    DISTINCT,
    F1,
    MATCHED,
    SAVED,
    Finding,
    Findings,
)
from sptune.experiments.report.folder import Comparison
from sptune.experiments.report.results_section import results_of
from sptune.experiments.report.system import System
from sptune.experiments.report.writing import DASH, gain_cell, interval, listed, verdict, without_empty
from sptune.report.document import Block, Bullets, Cell, Details, Paragraph, Row, Section, Table, Tile, Tiles, signed
from sptune.report.metric_specs import human_value

_MOST_SENTENCES = 12


def short_section(comparison: Comparison, findings: Findings, plots: Sequence[Block]) -> Section:
    """Tiles, sentences, and the gains over the reference."""
    order = ranked(comparison, findings)
    blocks: list[Block] = []
    if comparison.reference is None:
        blocks.append(
            Paragraph("There is nothing to compare with: the reference is not known, or has no complete cell.")
        )
    elif order:
        tiles = tuple(_tiles(order[0], findings))
        blocks += [*([Tiles(tiles)] if tiles else []), Paragraph(_headline(order, comparison, findings))]
    warnings = comparison_warnings(comparison)
    blocks += [warnings] if warnings else []
    if comparison.reference and order:
        blocks += _sentences(order, comparison, findings)
    if any(findings.gains.values()):
        blocks += [_gains(comparison, findings, order), Paragraph(_gains_legend(comparison, findings)), *plots]
    return Section("In short", tuple(blocks))


def _sentences(order: Sequence[System], comparison: Comparison, findings: Findings) -> list[Block]:
    """One a system; those of the lowest gains are folded away where there are many."""
    lines = [f"{system.name}: {describe(system, comparison, findings)}" for system in order]
    first, others = lines[:_MOST_SENTENCES], lines[_MOST_SENTENCES:]
    return [Bullets(tuple(first)), *([Details("The other systems", (Bullets(tuple(others)),))] if others else [])]


def ranked(comparison: Comparison, findings: Findings) -> list[System]:
    """All systems but the reference: the highest average gain first, those without one last."""

    def place(system: System) -> float:
        found = findings.gains.get(system.label, {}).get(AVERAGE)
        return found.chance.difference if found else float("-inf")

    others = [system for system in comparison.systems if system is not comparison.reference]
    return sorted(others, key=place, reverse=True)


def describe(system: System, comparison: Comparison, findings: Findings) -> str:
    """On which figures a system is better, worse or no different beyond noise."""
    found = findings.differences.get(system.label, {})
    if not found:
        return "it cannot be compared, for its figures of single turns are missing, or of other turns."
    by_verdict: dict[str, list[str]] = {"better": [], "worse": [], "plain": []}
    for key, finding in found.items():
        by_verdict[_verdict(key, finding, comparison)].append(NAMES[key])
    parts = [f"{word} on {listed(by_verdict[tone])}" for tone, word in _WORDS.items() if by_verdict[tone]]
    average = findings.gains[system.label].get(AVERAGE)
    gain = f" Average gain {signed(average.chance.difference, 1)}% ({interval(average.chance, 1)})." if average else ""
    return f"{'; '.join(parts)}.{gain}"


_WORDS = {"better": "better beyond noise", "worse": "worse", "plain": "no clear difference"}


def _verdict(key: str, finding: Finding, comparison: Comparison) -> str:
    base = comparison.reference.value(SPECS[key]) if comparison.reference else None
    human = human_value(results_of(comparison), SPECS[key])
    return verdict(finding, SPECS[key], human, base.mean) if base else "plain"


def _headline(order: Sequence[System], comparison: Comparison, findings: Findings) -> str:
    assert comparison.reference is not None
    name = comparison.reference.name
    known = {system.name: found for system in order if (found := findings.gains.get(system.label, {}).get(AVERAGE))}
    if not known:
        return f"No gains over {name} can be computed."
    up = [one for one, found in known.items() if found.significant and found.chance.difference > 0]
    down = [one for one, found in known.items() if found.significant and found.chance.difference < 0]
    part = "" if len(findings.averaged) == len(PAPER) else f"{len(findings.averaged)} of "
    better = f"{listed(up)} {'gains' if len(up) == 1 else 'gain'} beyond noise" if up else "nothing gains beyond noise"
    worse = f"; {listed(down)} {'loses' if len(down) == 1 else 'lose'}" if down else ""
    best = [system.name for system in order if _all_better(system, comparison, findings)]
    every = f" Better beyond noise on each of these that can be tested: {listed(best)}." if best else ""
    return f"Against {name}, on the average of {part}the paper's ten metrics: {better}{worse}.{every}"


def _all_better(system: System, comparison: Comparison, findings: Findings) -> bool:
    """Whether all of the paper's metrics that have a test are better beyond noise."""
    found = findings.differences.get(system.label, {})
    tested = [spec.key for spec in PAPER if spec.key in found]
    return bool(tested) and all(_verdict(key, found[key], comparison) == "better" for key in tested)


def _tiles(best: System, findings: Findings) -> Iterator[Tile]:
    """The system of the highest average gain."""
    gains = findings.gains.get(best.label, {})
    labels = {
        AVERAGE: "Highest average gain",
        DISTINCT: "Its gain of DIST",
        MATCHED: "DIST at equal length",
        F1: "Its gain of F1",
    }
    for name, label in labels.items():
        if name in gains:
            cell = gain_cell(gains[name])
            text = f"{signed(gains[name].chance.difference, 1)}%"
            detail = f"{best.name}: {cell.detail}" if name == AVERAGE else cell.detail
            yield Tile(label, text, detail, cell.tone)


def _gains(comparison: Comparison, findings: Findings, order: Sequence[System]) -> Table:
    columns = (
        "",
        "average",
        "DIST-1, DIST-2",
        "F1",
        "F1 holds",
        "adjusted DIST",
        "DIST at equal length",
        "perplexity saved",
        "of human DIST-1, DIST-2",
    )
    rows = []
    for system in (*([comparison.reference] if comparison.reference else []), *order):
        found = findings.gains.get(system.label, {})
        cells = [gain_cell(found.get(name)) for name in (AVERAGE, DISTINCT, F1)]
        cells += [
            Cell(_f1_holds(found.get(F1))),
            *(gain_cell(found.get(name)) for name in (ADJUSTED, MATCHED, SAVED)),
            Cell(
                _human_share(system, comparison, "dist"), detail=f"adjusted {_human_share(system, comparison, 'ead')}"
            ),
        ]
        rows.append(Row((Cell(system.name), *cells)))
    return without_empty(Table(columns, tuple(rows)))


def _human_share(system: System, comparison: Comparison, name: str) -> str:
    """Diversity in words and in pairs of words, as shares of the human responses'."""
    specs = [SPECS[f"{name}{n}"] for n in (1, 2)]
    pairs = [(system.value(spec), human_value(results_of(comparison), spec)) for spec in specs]
    return ", ".join(f"{own.mean / human:.0%}" if own and human else DASH for own, human in pairs)


def _f1_holds(found: Finding | None) -> str:
    if found is None:
        return DASH
    if found.chance.difference >= 0:
        return "yes"
    return "no" if found.significant else "within noise"


def _gains_legend(comparison: Comparison, findings: Findings) -> str:
    assert comparison.reference is not None
    return (
        f"Relative gains over {comparison.reference.name} with 95% intervals (paired bootstrap over dialogues, seeds averaged within each "
        "resample); * p < 0.05, ** p < 0.01, *** p < 0.001 after Holm's correction over the systems, where the interval leaves out 0 as well "
        "(F1 and perplexity: as in `Differences`). The first column averages "
        f"{listed([SPECS[name].label for name in findings.averaged] or ['nothing'])}. Adjusted DIST divides by what that many words would be "
        "expected to hold (`ead1`, `ead2`). F1 holds where it is not lower, or lower within noise. At equal length, of two replies to a "
        "turn the longer is cut to the words of the shorter, so that being brief gains nothing. The last column is DIST as a share of the "
        "human responses', and with it adjusted DIST likewise: 100% would be as diverse as people are."
    )
