"""Which share of the turns each prompt speaks on, for every adapter with more than one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from sptune.report.plots.style import SMALL, Theme, label, new_figure, set_title

_MOST_WRITTEN = 16  # prompts whose shares still have room to be written down
_STRONG = 55  # percent; from here on the number stands out better in the colour of the background


@dataclass(frozen=True, slots=True)
class UsageRow:
    """An adapter: the system, the seed, and the shares of its K prompts, by their number."""

    label: str
    seed: int
    shares: tuple[float, ...]


def plot_usage_map(rows: Sequence[UsageRow], *, theme: Theme) -> Figure | None:
    """A heat map: a row an adapter, from the prompt chosen most to the one chosen least.

    Prompts of different adapters have nothing in common, so their numbers would compare nothing.

    Args:
        rows: the adapters with K > 1.
        theme: colours.

    Returns:
        The figure; None without adapters.
    """
    if not rows:
        return None
    figure = new_figure(theme, height=0.9 + 0.21 * len(rows))
    axes = figure.subplots()
    shares = _sorted_shares(rows)  # (rows, most prompts)
    image = _cells(axes, shares, theme)
    most = shares.shape[1]
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [_name(rows, number) for number in range(len(rows))])
    axes.set_xticks(range(1, most + 1), [str(number) for number in range(1, most + 1)])
    axes.set_xlabel("prompts of each adapter, the one chosen most first", color=theme.muted, fontsize=SMALL)
    axes.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=SMALL, length=0)
    axes.set_facecolor(theme.background)
    for spine in axes.spines.values():
        spine.set_visible(False)
    set_title(axes, theme, "Share of the test turns, %")
    bar = figure.colorbar(image, ax=axes, fraction=0.035, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=SMALL, length=0)
    return figure


def _sorted_shares(rows: Sequence[UsageRow]) -> np.ndarray:
    """Percent, the highest first; not a number beyond the K prompts of a row."""
    shares = np.full((len(rows), max(len(row.shares) for row in rows)), np.nan)
    for number, row in enumerate(rows):
        shares[number, : len(row.shares)] = 100 * np.sort(row.shares)[::-1]
    return shares


def _cells(axes: Axes, shares: np.ndarray, theme: Theme) -> QuadMesh:
    """A coloured cell for each share, with its number where there is room."""
    count, most = shares.shape
    image = axes.pcolormesh(
        np.arange(most + 1) + 0.5,
        np.arange(count + 1) - 0.5,
        np.ma.masked_invalid(shares),
        cmap=LinearSegmentedColormap.from_list("share", [theme.grid, theme.accent]),
        vmin=0,
        vmax=100,
        edgecolors=theme.background,
        linewidth=0.8,
    )
    written = np.argwhere(~np.isnan(shares)) if most <= _MOST_WRITTEN else ()
    for number, column in written:
        share = shares[number, column]
        ink = theme.background if share > _STRONG else theme.ink
        axes.text(column + 1, number, f"{share:.0f}", ha="center", va="center", fontsize=SMALL - 1, color=ink)
    return image


def _name(rows: Sequence[UsageRow], number: int) -> str:
    """The system on its first row, and the seed on each."""
    row = rows[number]
    first = number == 0 or rows[number - 1].label != row.label
    return f"{label(row.label, 26)}  seed {row.seed}" if first else f"seed {row.seed}"
