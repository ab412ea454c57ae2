"""What each disturbance moves: the choice of prompt, and the main metrics with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sptune.report.plots.style import Theme, dress, label, new_figure

if TYPE_CHECKING:
    from sptune.experiments.robustness.result import Condition

COLUMNS = 2
PLOTTED = {"perplexity": "Perplexity", "hits_at_1": "hits@1 (%)", "f1": "F1 (%)", "dist2": "DIST-2 (%)"}


def plot_movements(conditions: Sequence[Condition], *, theme: Theme) -> Figure | None:
    """Share of turns with another prompt, and differences of metrics from the clean input with 95% intervals.

    Args:
        conditions: from a robustness test.
        theme: colours.

    Returns:
        The figure; None where nothing was measured.
    """
    chosen = bool(conditions) and conditions[0].choice is not None
    names = [name for name in PLOTTED if conditions and name in conditions[0].metrics]
    count = chosen + len(names)
    if not count:
        return None
    rows = -(-count // COLUMNS)
    figure = new_figure(theme, height=rows * (0.7 + 0.2 * len(conditions)), gap=0.08)
    panels = list(figure.subplots(rows, min(COLUMNS, count), squeeze=False).flat)
    if chosen:
        _choices(panels[0], conditions, theme)
    for axes, name in zip(panels[int(chosen) :], names, strict=False):
        _differences(axes, conditions, name, theme)
    for number, axes in enumerate(panels):
        if number >= count:
            axes.remove()
            continue
        shown = [label(one.name) for one in conditions] if number % COLUMNS == 0 else [""] * len(conditions)
        axes.set_yticks(range(len(conditions)), shown)
        axes.set_ylim(len(conditions) - 0.4, -0.6)
    return figure


def _choices(axes: Axes, conditions: Sequence[Condition], theme: Theme) -> None:
    dress(axes, theme, title="Another prompt is chosen", x="% of turns")
    shares = [100 * one.choice.changed if one.choice else 0.0 for one in conditions]
    axes.barh(range(len(conditions)), shares, height=0.62, color=theme.accent)
    axes.set_xlim(0, max(5.0, 1.05 * max(shares)))


def _differences(axes: Axes, conditions: Sequence[Condition], name: str, theme: Theme) -> None:
    dress(axes, theme, title=PLOTTED[name], x="difference from the clean input")
    moved = [one.metrics[name] for one in conditions]
    values = [one.difference for one in moved]
    below, above = [one.difference - one.low for one in moved], [one.high - one.difference for one in moved]
    reach = [[max(0.0, length) for length in lengths] for lengths in (below, above)]
    axes.errorbar(values, range(len(moved)), xerr=reach, fmt="o", markersize=3.5, color=theme.accent, elinewidth=1.2)
    axes.axvline(0, color=theme.muted, linewidth=0.9)
