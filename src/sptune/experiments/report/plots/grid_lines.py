"""A method's figures over the values of the one setting that its grid varies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from sptune.experiments.report.system import OverSeeds
from sptune.report.plots.style import Theme, dress, label, new_figure

COLUMNS = 2
_WIDE = 8.0  # values that span such a factor are drawn on a logarithmic axis


@dataclass(frozen=True, slots=True)
class GridPanel:
    """A figure: its name, one value a setting, and the reference's."""

    title: str
    values: tuple[OverSeeds | None, ...]
    reference: float | None


@dataclass(frozen=True, slots=True)
class GridLines:
    """A grid of one key: the method, the key, its values, and the figures over them."""

    method: str
    key: str
    settings: tuple[object, ...]
    panels: tuple[GridPanel, ...]


def plot_grid(grid: GridLines, *, theme: Theme, reference: str | None) -> Figure | None:
    """One panel a figure: means with their spread over the seeds; the reference is a dashed line.

    Args:
        grid: the settings and their figures.
        theme: colours.
        reference: the reference's name.

    Returns:
        The figure; None with fewer than two settings, or without figures.
    """
    panels = [panel for panel in grid.panels if any(panel.values)]
    if len(grid.settings) < 2 or not panels:
        return None
    rows = -(-len(panels) // COLUMNS)
    figure = new_figure(theme, height=0.2 + 1.95 * rows, gap=0.06)
    for number, axes in enumerate(figure.subplots(rows, COLUMNS, squeeze=False).flat):
        if number >= len(panels):
            axes.remove()
            continue
        below = number + COLUMNS >= len(panels)
        dress(axes, theme, title=panels[number].title, x=grid.key if below else "")
        _line(axes, grid.settings, panels[number], theme)
        _reference(axes, panels[number].reference, reference if number == 0 else None, theme)
    return figure


def _line(axes: Axes, settings: Sequence[object], panel: GridPanel, theme: Theme) -> None:
    numbers = [float(value) for value in settings if isinstance(value, int | float) and not isinstance(value, bool)]
    numeric = len(numbers) == len(settings)
    places = numbers if numeric else [float(place) for place in range(len(settings))]
    known = [(place, value) for place, value in zip(places, panel.values, strict=True) if value]
    known.sort(key=lambda point: point[0])
    axes.errorbar(
        [place for place, _ in known],
        [value.mean for _, value in known],
        yerr=[value.spread or 0.0 for _, value in known],
        color=theme.accent,
        marker="o",
        ms=4.5,
        linewidth=1.6 if numeric else 0,
        elinewidth=1.0,
        zorder=3,
    )
    if numeric and min(numbers) > 0 and max(numbers) >= _WIDE * min(numbers):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(
        places,
        [label(f"{value:g}" if isinstance(value, float) else str(value), _room(len(settings))) for value in settings],
    )
    margin = 0.4 if not numeric else None
    if margin:
        axes.set_xlim(-margin, len(settings) - 1 + margin)


def _room(settings: int) -> int:
    """Letters that a label under one of so many settings has."""
    return max(4, 34 // settings)


def _reference(axes: Axes, value: float | None, name: str | None, theme: Theme) -> None:
    if value is None:
        return
    axes.axhline(value, color=theme.ink, linewidth=1.0, linestyle=(0, (3, 2)), zorder=2)
    if name:
        axes.annotate(
            label(name),
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=theme.ink,
        )
