"""Gains over the reference with their intervals, one row a system and one panel a gain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sptune.report.plots.style import SMALL, Theme, label, new_figure, set_title

COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Gain:
    """A system's gain in percent with its interval, and whether it is significant."""

    label: str
    value: float
    low: float
    high: float
    significant: bool


@dataclass(frozen=True, slots=True)
class GainPanel:
    """One kind of gain: its name and the systems that have it."""

    title: str
    gains: tuple[Gain, ...]


def plot_forest(panels: Sequence[GainPanel], labels: Mapping[str, str], *, theme: Theme) -> Figure | None:
    """Points with intervals around the line of no gain; filled points are significant.

    Args:
        panels: the gains.
        labels: label -> name to write, of the systems from the top.
        theme: colours.

    Returns:
        The figure; None where there is nothing to draw.
    """
    shown = [panel for panel in panels if panel.gains]
    if not shown or not labels:
        return None
    rows = -(-len(shown) // COLUMNS)
    figure = new_figure(theme, height=rows * (0.75 + 0.2 * len(labels)), gap=0.05)
    grid = figure.subplots(rows, min(COLUMNS, len(shown)), squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(shown):
            _panel(axes, shown[number], labels, theme)
            names = [label(name, 22) for name in labels.values()] if number % COLUMNS == 0 else [""] * len(labels)
            axes.set_yticks(range(len(labels)), names)
        else:
            axes.remove()
    return figure


def _panel(axes: Axes, panel: GainPanel, labels: Mapping[str, str], theme: Theme) -> None:
    axes.set_facecolor(theme.background)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.muted)
    axes.set_axisbelow(True)
    axes.grid(True, axis="both", color=theme.grid, linewidth=0.7)
    axes.axvline(0.0, color=theme.muted, linewidth=1.1)
    limit = shown_limit(panel.gains)
    for one in panel.gains:
        colour = theme.ink if not one.significant else theme.accent if one.value > 0 else theme.warning
        _draw(axes, one, list(labels).index(one.label), limit=limit, colours=(colour, theme.background))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    axes.set_xlabel("%", color=theme.muted, fontsize=SMALL, labelpad=1)
    axes.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=SMALL, length=2.5, left=False)
    set_title(axes, theme, panel.title)


def shown_limit(gains: Sequence[Gain]) -> float:
    """How far from 0 the axis may go: four times the distance that three quarters of the points keep, or all of them."""
    distances = sorted(abs(one.value) for one in gains)
    usual = distances[(3 * (len(distances) - 1)) // 4]
    furthest = max(max(abs(one.low), abs(one.high)) for one in gains)
    return min(furthest, 4 * usual) if usual else furthest


def _draw(axes: Axes, one: Gain, place: int, *, limit: float, colours: tuple[str, str]) -> None:
    """A point with its interval, filled where significant; beyond the limit an arrow with the value, and an arrowhead where the interval goes on."""
    colour, background = colours
    if abs(one.value) > limit:
        edge, side = math.copysign(limit, one.value), "left" if one.value < 0 else "right"
        axes.plot([edge], [place], marker="<" if one.value < 0 else ">", ms=5, color=colour)
        axes.annotate(
            f"{one.value:+z.0f}".replace("-", "−"),
            (edge, place),
            xytext=(5 if side == "left" else -5, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=SMALL - 1,
            color=colour,
        )
        return
    ends = [max(-limit, one.low), min(limit, one.high)]
    axes.plot(ends, [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    for end, clipped, marker in zip(ends, (one.low < -limit, one.high > limit), "<>", strict=True):
        if clipped:
            axes.plot([end], [place], marker=marker, ms=4.5, color=colour)
    face = colour if one.significant else background
    axes.plot([one.value], [place], marker="o", ms=5, color=colour, markerfacecolor=face, markeredgewidth=1.3)
