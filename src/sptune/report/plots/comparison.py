"""The main metrics of several systems, one small panel of bars each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sptune.report.plots.style import SMALL, TEXT, Theme, label, new_figure

COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Bar:
    """One system's value of a metric.

    Attributes:
        label: the system.
        value: of the metric; None where it has none.
        text: the value in writing.
        role: `main` is what the report is about, `human` the human responses, `other` the rest.
    """

    label: str
    value: float | None
    text: str
    role: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A metric: its name and unit, which direction is better (in words), and one bar a system."""

    title: str
    better: str
    bars: tuple[Bar, ...]


def plot_comparison(panels: Sequence[Panel], *, theme: Theme) -> Figure | None:
    """Bars of each metric, from zero, with their values.

    Args:
        panels: the metrics, with the same systems in the same order.
        theme: colours.

    Returns:
        The figure; None where there is nothing to draw.
    """
    if not panels:
        return None
    rows = -(-len(panels) // COLUMNS)
    systems = len(panels[0].bars)
    figure = new_figure(theme, height=0.15 + rows * (0.62 + 0.23 * systems), gap=0.1)
    grid = figure.subplots(rows, min(COLUMNS, len(panels)), squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            _panel(axes, panels[number], theme, named=number % COLUMNS == 0)
        else:
            axes.remove()
    return figure


def _panel(axes: Axes, panel: Panel, theme: Theme, *, named: bool) -> None:
    axes.set_facecolor(theme.background)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(panel.title, loc="left", fontsize=TEXT, fontweight="bold", color=theme.ink, pad=6)
    axes.set_xlabel(panel.better, loc="left", fontsize=SMALL - 0.5, color=theme.muted, labelpad=2)
    places = range(len(panel.bars))
    largest = max((bar.value for bar in panel.bars if bar.value is not None), default=0.0) or 1.0
    for place, bar in zip(places, panel.bars, strict=True):
        human = bar.role == "human"
        colour = {"main": theme.accent, "human": theme.background}.get(bar.role, theme.muted)
        edge = theme.muted if human else colour
        axes.barh(
            place,
            bar.value or 0.0,
            height=0.68,
            color=colour,
            edgecolor=edge,
            linewidth=0.8,
            hatch="////" if human else None,
        )
        end = (bar.value or 0.0) + 0.03 * largest
        weight = "bold" if bar.role == "main" else "normal"
        axes.text(
            end,
            place,
            bar.text,
            va="center",
            fontsize=SMALL,
            fontweight=weight,
            color=theme.ink if bar.value is not None else theme.muted,
        )
    axes.set_xlim(0, 1.38 * largest)
    axes.set_ylim(len(panel.bars) - 0.4, -0.6)
    axes.set_yticks(places, [label(bar.label) for bar in panel.bars] if named else [""] * len(panel.bars))
    axes.tick_params(labelsize=SMALL, labelcolor=theme.ink, length=0)
    axes.set_xticks([])
    axes.axvline(0, color=theme.muted, linewidth=0.9)
