"""Which prompts are chosen while the retriever learns: shares stacked to 100%, and how even they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sptune.report.plots.series import Record, VectorSeries, series, vector_series
from sptune.report.plots.style import MOST_NAMED, SMALL, Theme, dress, legend, new_figure


def plot_usage(
    train: Sequence[Record], validation: Sequence[Record], *, theme: Theme, warnings: Sequence[int] = ()
) -> Figure | None:
    """Shares of the contexts that chose each prompt, and their normalised entropy, over the steps.

    Args:
        train: records of kind `train`; their figures are of the last 512 contexts at most.
        validation: records of kind `validation`, drawn as dots in the lower panel.
        theme: colours.
        warnings: steps at which the monitor warned, numbered 1, 2, ... in the plot.

    Returns:
        The figure; None where there is one prompt, or nothing to draw.
    """
    usage = vector_series(train, "usage")
    if not usage or len(usage.values[0]) < 2:
        return None
    figure = new_figure(theme, height=4.1)
    shares, evenness = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1.2))
    _shares(shares, usage, theme)
    _evenness(evenness, train, validation, theme)
    shares.set_xlim(*_span(usage))
    _mark(shares, evenness, warnings, theme)
    return figure


def _shares(axes: Axes, usage: VectorSeries, theme: Theme) -> None:
    dress(axes, theme, title="Share of the contexts that choose each prompt", y="% of recent contexts")
    rows = 100 * np.array(usage.values).T  # (K, steps)
    labels = [f"prompt {number}" for number in range(len(rows))]
    if len(rows) > MOST_NAMED:
        rows, labels = _most_used(rows)
    colours = (
        [*theme.prompts[: len(rows) - 1], theme.muted] if labels[-1].endswith("others") else theme.prompts[: len(rows)]
    )
    steps = np.array(usage.steps)
    if len(steps) == 1:  # an area needs a width
        steps, rows = np.array([steps[0] - 0.5, steps[0] + 0.5]), np.repeat(rows, 2, axis=1)
    axes.stackplot(steps, rows, colors=colours, edgecolor=theme.background, linewidth=0.8)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    patches = [Patch(color=colour, label=label) for colour, label in zip(colours, labels, strict=True)]
    legend(axes, theme, handles=patches, columns=len(patches) if len(patches) <= 5 else 4)


def _evenness(axes: Axes, train: Sequence[Record], validation: Sequence[Record], theme: Theme) -> None:
    dress(axes, theme, title="Evenness of use (1: all equally often, 0: one for all)", x="step", y="entropy / log K")
    entropy, validated = series(train, "usage_entropy"), series(validation, "usage_entropy")
    axes.plot(entropy.steps, entropy.values, color=theme.accent, linewidth=1.8, label="training contexts")
    if validated:
        axes.plot(
            validated.steps,
            validated.values,
            color=theme.ink,
            linewidth=0,
            marker="o",
            ms=4,
            label="validation contexts",
            clip_on=False,
            zorder=3,
        )
        legend(axes, theme, columns=2)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([0, 0.5, 1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _most_used(rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The prompts chosen most over the run, and all others as one."""
    order = np.argsort(-rows.sum(1), kind="stable")
    named, others = np.sort(order[: MOST_NAMED - 1]), order[MOST_NAMED - 1 :]
    labels = [f"prompt {number}" for number in named]
    return np.vstack([rows[named], rows[others].sum(0)]), [*labels, f"{len(others)} others"]


def _span(usage: VectorSeries) -> tuple[float, float]:
    first, last = usage.steps[0], usage.steps[-1]
    return (first, last) if last > first else (first - 0.5, first + 0.5)


def _mark(shares: Axes, evenness: Axes, warnings: Sequence[int], theme: Theme) -> None:
    for number, step in enumerate(warnings, start=1):
        for axes in (shares, evenness):
            axes.axvline(step, color=theme.warning, linewidth=1.1, linestyle=(0, (3, 2)))
        shares.annotate(
            f"⚠ {number}",
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            fontsize=SMALL,
            fontweight="bold",
            color=theme.warning,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": theme.background, "edgecolor": "none"},
        )
