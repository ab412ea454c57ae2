"""The plots of a comparison, on light and on dark, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from sptune.experiments.report.columns import SPECS
from sptune.experiments.report.findings import ADJUSTED, AVERAGE, DISTINCT, F1, MATCHED, SAVED, Findings
from sptune.experiments.report.folder import Comparison
from sptune.experiments.report.plots.curves import MethodCurves, plot_curves
from sptune.experiments.report.plots.forest import Gain, GainPanel, plot_forest
from sptune.experiments.report.plots.grid_lines import GridLines, GridPanel, plot_grid
from sptune.experiments.report.plots.quality import HumanDiversity, QualityPoint, plot_quality
from sptune.experiments.report.plots.usage_map import UsageRow, plot_usage_map
from sptune.experiments.report.results_section import results_of
from sptune.experiments.report.system import OverSeeds, System
from sptune.report.document import Plot
from sptune.report.figures import RunPlot
from sptune.report.metric_specs import human_value
from sptune.report.plots.style import THEMES, Theme, png

GRID_PREFIX = "grid-"
NAMES = ("gains", "quality", "usage", "curves")
_GAINS = {
    AVERAGE: "AVG gain",
    F1: "F1",
    DISTINCT: "DIST-1, DIST-2",
    ADJUSTED: "Adjusted DIST",
    MATCHED: "DIST, equal length",
    SAVED: "Perplexity saved",
}
_GRID_FIGURES = ("perplexity", "f1", "dist2")


@dataclass(frozen=True, slots=True)
class _Maker:
    """A plot: what it shows, how to read it, and how to draw it."""

    title: str
    caption: str
    draw: Callable[[Theme], Figure | None]


def make_figures(comparison: Comparison, findings: Findings, order: Sequence[System]) -> dict[str, RunPlot]:
    """Every plot that the comparison has the figures for, by name.

    Args:
        comparison: what was read.
        findings: of its systems.
        order: the systems but the reference, the one with the highest average gain first.
    """
    made = {}
    for name, maker in _makers(comparison, findings, order).items():
        light, dark = (maker.draw(theme) for theme in THEMES.values())
        if light and dark:
            plot = Plot(name, maker.title, maker.caption, light.get_figwidth())
            made[name] = RunPlot(plot, png(light), png(dark))
    return made


def _makers(comparison: Comparison, findings: Findings, order: Sequence[System]) -> dict[str, _Maker]:
    reference = comparison.reference.name if comparison.reference else None
    makers = {
        "gains": _gains_maker(findings, order, reference),
        "quality": _quality_maker(comparison, reference),
        "usage": _usage_maker(comparison),
        "curves": _curves_maker(comparison),
    }
    lines = {f"{GRID_PREFIX}{grid.method}": _grid_maker(grid, reference) for grid in grids(comparison, findings)}
    return makers | lines


def _gains_maker(findings: Findings, order: Sequence[System], reference: str | None) -> _Maker:
    panels = _gain_panels(findings, order)
    labels = {system.label: system.name for system in order if findings.gains.get(system.label)}
    return _Maker(
        f"Gains over {reference} with 95% intervals",
        f"Relative gains over {reference}, with 95% intervals over dialogues. Filled points are significant after Holm's correction over "
        "the systems: blue gains, red losses. What lies far beyond the others is an arrow with its value, "
        "and an interval that goes on beyond the plot ends in an arrowhead.",
        lambda theme: plot_forest(panels, labels, theme=theme),
    )


def _quality_maker(comparison: Comparison, reference: str | None) -> _Maker:
    points, human, method = list(_quality_points(comparison)), _human(comparison), _reference_method(comparison)
    beaten = f" What lies above and to the right of the dashed lines beats {reference} in both." if reference else ""
    return _Maker(
        "F1 against DIST-2 and adjusted DIST-2 of every system",
        "Bars are the standard deviation over the seeds; settings of one method are joined, and so is each decoding with the chosen prompt "
        f"alone (filled). The human responses have a DIST and no F1, so they are a line.{beaten}",
        lambda theme: plot_quality(points, human, theme=theme, reference=method),
    )


def _usage_maker(comparison: Comparison) -> _Maker:
    rows = list(_usage_rows(comparison))
    return _Maker(
        "Share of the test turns that each prompt speaks on",
        "A row with one strong cell has collapsed: one prompt speaks for all, which is plain prompt tuning.",
        lambda theme: plot_usage_map(rows, theme=theme),
    )


def _curves_maker(comparison: Comparison) -> _Maker:
    curves, method = _curves(comparison), _reference_method(comparison)
    return _Maker(
        "Validation perplexity over the training tokens of every method",
        "One line a seed (and a setting). Tokens are those of the packed sequences, counted once, however many prompts see them.",
        lambda theme: plot_curves(curves, theme=theme, reference=method),
    )


def _reference_method(comparison: Comparison) -> str | None:
    return comparison.reference.method if comparison.reference else None


def _grid_maker(grid: GridLines, reference: str | None) -> _Maker:
    return _Maker(
        f"Figures of {grid.method} over {grid.key}",
        f"{grid.method} over {grid.key}: means and standard deviation over the seeds{f'; dashed is {reference}' if reference else ''}.",
        lambda theme: plot_grid(grid, theme=theme, reference=reference),
    )


def _gain_panels(findings: Findings, order: Sequence[System]) -> list[GainPanel]:
    panels = []
    for name, title in _GAINS.items():
        known = [(system.label, findings.gains.get(system.label, {}).get(name)) for system in order]
        gains = [
            Gain(label, one.chance.difference, one.chance.low, one.chance.high, one.significant)
            for label, one in known
            if one
        ]
        panels.append(GainPanel(title, tuple(gains)))
    return panels


def _quality_points(comparison: Comparison) -> Iterator[QualityPoint]:
    for system in comparison.systems:
        f1, dist, adjusted = (system.value(SPECS[key]) for key in ("f1", "dist2", "ead2"))
        if f1 and dist:
            setting = ", ".join(map(str, system.setting.values()))
            yield QualityPoint(system.method, setting, f1, dist, adjusted, system.decoding)


def _human(comparison: Comparison) -> HumanDiversity:
    results = results_of(comparison)
    return HumanDiversity(*(human_value(results, SPECS[key]) for key in ("dist2", "ead2")))


def _usage_rows(comparison: Comparison) -> Iterator[UsageRow]:
    for system in comparison.under_top1:
        for cell in system.cells:
            figures = cell.main.result.selection if cell.main else None
            if figures and len(figures.usage) > 1:
                yield UsageRow(system.name, cell.record.seed, figures.usage)


def _curves(comparison: Comparison) -> list[MethodCurves]:
    methods = dict.fromkeys(cell.record.method for cell in comparison.cells)
    return [
        MethodCurves(name, tuple(cell.curve for cell in comparison.cells if cell.record.method == name))
        for name in methods
    ]


def grids(comparison: Comparison, findings: Findings) -> list[GridLines]:
    """The methods whose grid varies one key, with their figures over its values."""
    found = []
    for method in dict.fromkeys(system.method for system in comparison.under_top1):
        systems = [system for system in comparison.under_top1 if system.method == method]
        keys = {tuple(system.setting) for system in systems}
        if len(systems) > 1 and len(keys) == 1 and len(next(iter(keys))) == 1:
            (key,) = next(iter(keys))
            settings = tuple(system.setting[key] for system in systems)
            found.append(GridLines(method, key, settings, tuple(_grid_panels(systems, comparison, findings))))
    return found


def _grid_panels(systems: Sequence[System], comparison: Comparison, findings: Findings) -> Iterator[GridPanel]:
    reference = comparison.reference
    for key in _GRID_FIGURES:
        spec = SPECS[key]
        base = reference.value(spec) if reference else None
        title = spec.label if spec.part == "likelihood" else f"{spec.label}, %"
        yield GridPanel(
            title.capitalize() if key == "perplexity" else title, _values(systems, key), base.mean if base else None
        )
    gains = [findings.gains.get(system.label, {}).get(AVERAGE) for system in systems]
    values = tuple(OverSeeds(one.chance.difference, None, 1) if one else None for one in gains)
    yield GridPanel("Average gain, %", values, 0.0 if reference else None)


def _values(systems: Sequence[System], key: str) -> tuple[OverSeeds | None, ...]:
    return tuple(system.value(SPECS[key]) for system in systems)
