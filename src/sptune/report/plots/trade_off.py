"""What weights of `rerank` trade: F1 against DIST of the replies that each choice of weights makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from sptune.report.plots.style import SMALL, Theme, cross, dress, human_line, legend, new_figure

_WIDE, _HIGH = 0.2, 0.05  # of a label, as shares of the panel


@dataclass(frozen=True, slots=True)
class Traded:
    """Replies: what they are called, their F1, DIST-2 and expectation-adjusted DIST-2, percent."""

    label: str
    f1: float
    dist: float
    adjusted: float


def plot_trade_off(
    points: Sequence[Traded], *, labels: str, human: tuple[float, float], theme: Theme, against: Traded | None = None
) -> Figure:
    """F1 over DIST-2, and over its expectation-adjusted form, which takes out a part of the effect of length.

    The points that no other beats in both are joined and labelled; the others are hollow.

    Args:
        points: at least one; the replies of each choice of weights.
        labels: what the labels are values of.
        human: DIST-2 and adjusted DIST-2 of the human responses.
        theme: colours.
        against: other replies, in ink, with lines through them.
    """
    figure = new_figure(theme, height=6.4, gap=0.05)
    axes = figure.subplots(2, 1)
    for number, name in enumerate(("DIST-2", "DIST-2, expectation-adjusted")):
        shown = [(one.f1, (one.dist, one.adjusted)[number], one.label) for one in points]
        other = (against.f1, (against.dist, against.adjusted)[number], against.label) if against else None
        title = "What the weights trade" if number == 0 else ""
        dress(axes[number], theme, title=title, x=f"{name}, %: more diverse →", y="F1, %: better →")
        human_line(axes[number], theme, human[number], label_at="top")
        _draw_other(axes[number], other, theme)
        _draw(axes[number], shown, theme)
    named = f"no other is better in both; labels: {labels}" if labels else "no other is better in both"
    handles = [
        Line2D([], [], color=theme.accent, marker="o", markersize=5, linewidth=0.9, label=named),
        Line2D([], [], color=theme.muted, marker="o", markersize=4.5, linewidth=0, fillstyle="none", label="others"),
    ]
    legend(axes[0], theme, columns=1, handles=handles)
    return figure


def front(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """The points that no other equals or beats in both figures, by falling first one.

    >>> front([(1.0, 9.0, "a"), (2.0, 5.0, "b"), (1.5, 4.0, "c")])
    [(2.0, 5.0, 'b'), (1.0, 9.0, 'a')]
    """
    found: list[tuple[float, float, str]] = []
    for one in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not found or one[1] > found[-1][1]:
            found.append(one)
    return found


def _draw(axes: Axes, points: Sequence[tuple[float, float, str]], theme: Theme) -> None:
    best = front(points)
    rest = [point for point in points if point not in best]
    axes.scatter(
        [dist for _, dist, _ in rest],
        [f1 for f1, _, _ in rest],
        s=20,
        facecolors=theme.background,
        edgecolors=theme.muted,
        linewidths=0.9,
        zorder=3,
    )
    axes.plot([dist for _, dist, _ in best], [f1 for f1, _, _ in best], color=theme.accent, linewidth=0.9, zorder=3)
    axes.scatter([dist for _, dist, _ in best], [f1 for f1, _, _ in best], s=26, color=theme.accent, zorder=4)
    axes.margins(x=0.12, y=0.12)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    labelled: list[tuple[float, float]] = []
    for f1, dist, text in best:
        near = [
            one for one in labelled if one[0] - f1 < _HIGH * (high - low) and dist - one[1] < _WIDE * (right - left)
        ]
        if not near:
            _note(axes, theme, text, (dist, f1))
            labelled.append((f1, dist))


def _draw_other(axes: Axes, other: tuple[float, float, str] | None, theme: Theme) -> None:
    if other is None:
        return
    f1, dist, text = other
    cross(axes, theme, dist, f1)
    axes.scatter([dist], [f1], s=34, color=theme.ink, zorder=4)
    _note(axes, theme, text, (dist, f1))


def _note(axes: Axes, theme: Theme, text: str, place: tuple[float, float]) -> None:
    axes.annotate(
        text,
        place,
        xytext=(5, 3),
        textcoords="offset points",
        fontsize=SMALL - 1,
        color=theme.ink,
        va="bottom",
        path_effects=[withStroke(linewidth=2.5, foreground=theme.background)],  # legible on a line
    )
