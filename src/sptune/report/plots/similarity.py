"""How alike the prompts are, and whether they grow apart in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sptune.report.plots.style import SMALL, WIDTH, Theme, dress, legend, new_figure, set_title

_MOST_NUMBERED = 10  # prompts whose similarities are also written as numbers

Matrix = Sequence[Sequence[float]]


def plot_similarity(matrix: Matrix, history: Sequence[tuple[int, Matrix]] = (), *, theme: Theme) -> Figure | None:
    """Cosine similarities of the K prompts, and of pairs of them over the steps.

    Args:
        matrix: K x K similarities of the kept prompts.
        history: steps and the matrices at these steps; drawn where there are two or more.
        theme: colours.

    Returns:
        The figure; None where K = 1.
    """
    if len(matrix) < 2:
        return None
    values = np.array(matrix, dtype=float)
    kept = [(step, found) for step, found in history if len(found) == len(values)]
    steps = [step for step, _ in kept]
    wide = len(steps) > 1
    figure = new_figure(theme, width=WIDTH if wide else 3.2, height=2.9)
    if wide:
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.05))
        _over_time(right, steps, np.array([found for _, found in kept]), theme)
    else:
        left = figure.subplots()
    _matrix(left, values, theme)
    set_title(left, theme, "Cosine of each two prompts", lines=int(wide))  # level with its neighbour
    left.set_anchor("NW")
    return figure


def pairs(matrix: Matrix) -> np.ndarray:
    """The K (K - 1) / 2 similarities of different prompts."""
    values = np.array(matrix, dtype=float)
    return values[np.triu_indices(len(values), k=1)]


def _matrix(axes: Axes, values: np.ndarray, theme: Theme) -> None:
    count = len(values)
    dress(axes, theme, x="prompt", y="prompt")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    colours = LinearSegmentedColormap.from_list("similarity", [theme.prompts[5], theme.background, theme.prompts[0]])
    shown = values.copy()
    np.fill_diagonal(shown, np.nan)  # always 1, and would only draw the eye
    image = axes.pcolormesh(shown, cmap=colours, vmin=-1, vmax=1, edgecolors=theme.background, linewidth=1.2)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    ticks = range(0, count, max(1, count // 8))
    axes.set_xticks([k + 0.5 for k in ticks], [str(k) for k in ticks])
    axes.set_yticks([k + 0.5 for k in ticks], [str(k) for k in ticks])
    if count <= _MOST_NUMBERED:
        _numbers(axes, values, theme)
    else:
        _scale(axes, image, theme)


def _numbers(axes: Axes, values: np.ndarray, theme: Theme) -> None:
    size = 10.5 if len(values) <= 5 else SMALL - 1
    for row in range(len(values)):
        for column in range(len(values)):
            text = "1" if row == column else f"{values[row, column]:.2f}"
            strong = row != column and abs(values[row, column]) > 0.6
            colour = theme.muted if row == column else (theme.background if strong else theme.ink)
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=colour)


def _scale(axes: Axes, image: QuadMesh, theme: Theme) -> None:
    bar = axes.figure.colorbar(image, ax=axes, location="bottom", fraction=0.05, pad=0.02, aspect=24)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=SMALL, length=2)
    bar.set_label("cosine (1: the same, 0: unrelated)", color=theme.muted, fontsize=SMALL)


def _over_time(axes: Axes, steps: Sequence[int], matrices: np.ndarray, theme: Theme) -> None:
    dress(axes, theme, title="Do they grow apart?", x="step", y="cosine of two prompts")
    found = np.array([pairs(matrix) for matrix in matrices])  # (steps, pairs)
    axes.fill_between(steps, found.min(1), found.max(1), color=theme.accent, alpha=0.22, linewidth=0, label="all pairs")
    axes.plot(steps, found.mean(1), color=theme.accent, linewidth=1.8, marker="o", ms=3, label="mean")
    low, high = float(found.min()), float(found.max())
    axes.set_ylim(min(low, 0.0) - 0.05, max(high, 0.0) + 0.05 * (1 + high - low))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    legend(axes, theme, columns=2)
