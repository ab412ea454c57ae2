"""One look for all plots: colours that colour-blind readers can tell apart, on light and on dark; nothing global."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sptune.files import write_atomically

WIDTH = 5.8  # inches; narrow, so that its text can be read on a phone as well as at 900 px
DPI = 220
TEXT, SMALL = 9.0, 8.0  # points
MOST_NAMED = 8  # prompts that get a colour of their own


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a plot.

    Attributes:
        background: behind everything.
        ink: text and the main line.
        muted: text and lines that matter less.
        grid: grid lines and frames.
        accent: what the plot is about.
        warning: marks of warnings.
        prompts: one colour a prompt (after Okabe and Ito, 2008; lighter on dark).
    """

    background: str
    ink: str
    muted: str
    grid: str
    accent: str
    warning: str
    prompts: tuple[str, ...]


LIGHT = Theme(
    background="#ffffff",
    ink="#1c2430",
    muted="#677284",
    grid="#dfe4ea",
    accent="#0b62a8",
    warning="#b3370a",
    prompts=("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8d2a", "#7b5bb5"),
)
DARK = Theme(
    background="#151a21",
    ink="#e7ebf0",
    muted="#98a3b3",
    grid="#2c343f",
    accent="#5fb0ef",
    warning="#ff9166",
    prompts=("#3d9bdc", "#f0b429", "#2fbf94", "#dc95bd", "#8fd0f5", "#f0804a", "#bdbf55", "#a68be0"),
)
THEMES = {"light": LIGHT, "dark": DARK}


def new_figure(theme: Theme, *, height: float, width: float = WIDTH, gap: float = 0.04) -> Figure:
    """An empty figure, in inches, that lays itself out and belongs to no window; `gap`: share of it between panels."""
    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.06, hspace=gap, wspace=gap)
    return Figure(figsize=(width, height), facecolor=theme.background, layout=layout)


def dress(axes: Axes, theme: Theme, *, title: str = "", x: str = "", y: str = "") -> None:
    """Give `axes` the common look: no box, a light grid behind the data, labels and a title on the left."""
    axes.set_facecolor(theme.background)
    axes.set_axisbelow(True)
    axes.grid(True, color=theme.grid, linewidth=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.muted)
    axes.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=SMALL, length=2.5, left=False)
    axes.set_xlabel(x, color=theme.muted, fontsize=SMALL)
    axes.set_ylabel(y, color=theme.muted, fontsize=SMALL)
    set_title(axes, theme, title)


def set_title(axes: Axes, theme: Theme, title: str, *, lines: int = 0) -> None:
    """A title on the left, with room for `lines` lines of a legend under it."""
    pad = 7 + 13 * lines
    axes.set_title(title, loc="left", color=theme.ink, fontsize=TEXT, fontweight="bold", pad=pad)


def legend(axes: Axes, theme: Theme, *, columns: int, handles: Sequence[Line2D | Patch] | None = None) -> None:
    """A legend in the free space above the plot, under its title."""
    shown = axes.get_legend_handles_labels()[0] if handles is None else list(handles)
    by_row = [shown[i] for column in range(columns) for i in range(column, len(shown), columns)]
    box = axes.legend(
        handles=by_row,  # matplotlib fills columns first
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        labelcolor=theme.ink,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.3,
        borderaxespad=0.0,
    )
    lines = -(-len(box.get_texts()) // columns)
    set_title(axes, theme, axes.get_title(loc="left"), lines=lines)


def cross(axes: Axes, theme: Theme, x: float, y: float) -> None:
    """Dashed lines through a point that others are compared with: what lies to the upper right of it is better in both."""
    axes.axvline(x, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    axes.axhline(y, color=theme.muted, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)


def human_line(axes: Axes, theme: Theme, x: float, *, label_at: Literal["top", "bottom"]) -> None:
    """A line at a figure of the human responses, with its name beside it: to the right at the top, where few points are, else to the left."""
    axes.axvline(x, color=theme.accent, linewidth=1.6, zorder=2)
    at_top = label_at == "top"
    axes.annotate(
        "human responses",
        (x, 0.97 if at_top else 0.03),
        xycoords=("data", "axes fraction"),
        xytext=(4 if at_top else -4, 0),
        textcoords="offset points",
        rotation=90,
        ha="left" if at_top else "right",
        va=label_at,
        fontsize=SMALL,
        color=theme.accent,
    )


def prompt_colour(theme: Theme, prompt: int) -> str:
    """Colour of a prompt; those beyond the named ones share the muted colour."""
    return theme.prompts[prompt] if prompt < MOST_NAMED else theme.muted


def label(text: str, most: int = 14) -> str:
    """A name as a label: shortened, and without mathematical typesetting, for it may hold a dollar sign."""
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG.

    Raises:
        StorageError: it cannot be written.
    """
    picture = png(figure)

    def write(partial: Path) -> None:
        partial.write_bytes(picture)

    write_atomically(path, write)
