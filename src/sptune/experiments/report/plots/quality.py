"""Quality against diversity: F1 over DIST of every system and decoding, with the DIST of the human responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sptune.config.compare import TOP1
from sptune.experiments.report.plots.log_axis import make_logarithmic
from sptune.experiments.report.plots.looks import Look, looks
from sptune.experiments.report.system import OverSeeds
from sptune.report.plots.style import SMALL, Theme, cross, dress, human_line, label, legend, new_figure

_COLUMNS = 4
_FILLS = {TOP1: "full", "gated": "left", "fused": "bottom"}  # how a mark is filled; candidates' are hollow


@dataclass(frozen=True, slots=True)
class QualityPoint:
    """A system: its method, the value of the grid (empty without one), F1, DIST-2, adjusted DIST-2, and its decoding."""

    method: str
    setting: str
    f1: OverSeeds
    dist: OverSeeds
    adjusted: OverSeeds | None
    decoding: str = TOP1


@dataclass(frozen=True, slots=True)
class HumanDiversity:
    """DIST-2 and adjusted DIST-2 of the human responses; None where not known."""

    dist: float | None
    adjusted: float | None


def plot_quality(
    points: Sequence[QualityPoint], human: HumanDiversity, *, theme: Theme, reference: str | None
) -> Figure | None:
    """F1 over DIST-2, and over its expectation-adjusted form; bars are the spread over seeds.

    Args:
        points: the systems; those of one method are joined in their order, and each decoding with the top-1 of its adapter.
        human: drawn as a line, for the human responses have no F1.
        theme: colours.
        reference: its method, in ink, with lines through it.

    Returns:
        The figure; None where there is nothing to draw.
    """
    if not points:
        return None
    styles = looks([point.method for point in points], reference, theme)
    panels = [([(point, point.dist) for point in points], human.dist, "DIST-2")]
    adjusted = [(point, point.adjusted) for point in points if point.adjusted]
    panels += [(adjusted, human.adjusted, "DIST-2, expectation-adjusted")] if adjusted else []
    handles = [_handle(name, look, theme) for name, look in styles.items()]
    further = dict.fromkeys(point.decoding for point in points if point.decoding != TOP1)
    handles += [_handle(name, Look(theme.muted, "o"), theme, name) for name in further]
    lines = -(-len(handles) // _COLUMNS)
    figure = new_figure(theme, height=0.35 + 0.19 * lines + 2.75 * len(panels), gap=0.06)
    for number, axes in enumerate(figure.subplots(len(panels), 1, squeeze=False).flat):
        shown, line, name = panels[number]
        title = "Quality against diversity" if number == 0 else ""
        dress(axes, theme, title=title, x=f"{name}, % (logarithmic): more diverse →", y="F1, %: better →")
        _draw(axes, shown, styles, theme=theme, reference=reference)
        _cross(axes, shown, reference, theme)
        if line is not None:
            human_line(axes, theme, line, label_at="bottom")  # few replies are as diverse as people's and as bad
        make_logarithmic(axes, "x")
    legend(figure.axes[0], theme, columns=min(_COLUMNS, len(handles)), handles=handles)
    return figure


def _draw(
    axes: Axes,
    points: Sequence[tuple[QualityPoint, OverSeeds]],
    styles: dict[str, Look],
    *,
    theme: Theme,
    reference: str | None,
) -> None:
    for method, look in styles.items():
        own = [(point, dist) for point, dist in points if point.method == method]
        plain = [(point, dist) for point, dist in own if point.decoding == TOP1]
        _marks(axes, plain, look, theme, size=6.5 if method == reference else 5.5)
        for point, dist in own:
            if point.decoding != TOP1:
                origin = [one for one in plain if one[0].setting == point.setting]
                _marks(axes, [*origin, (point, dist)], look, theme, decoding=point.decoding)
        for point, dist in plain[:: max(1, len(plain) - 1)]:  # the ends of a grid
            if point.setting:
                axes.annotate(
                    label(point.setting),
                    (dist.mean, point.f1.mean),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=SMALL - 1,
                    color=look.colour,
                )


def _marks(
    axes: Axes,
    points: Sequence[tuple[QualityPoint, OverSeeds]],
    look: Look,
    theme: Theme,
    *,
    size: float = 5.5,
    decoding: str = TOP1,
) -> None:
    """Joined points with their spread; of those of another decoding only the last is marked, the first is where it comes from."""
    shown = points if decoding == TOP1 else points[-1:]
    axes.plot(
        [dist.mean for _, dist in points],
        [point.f1.mean for point, _ in points],
        color=look.colour,
        linewidth=0.8,
        linestyle=":",
        zorder=3,
    )
    axes.errorbar(
        [dist.mean for _, dist in shown],
        [point.f1.mean for point, _ in shown],
        xerr=[dist.spread or 0.0 for _, dist in shown],
        yerr=[point.f1.spread or 0.0 for point, _ in shown],
        color=look.colour,
        elinewidth=0.9,
        linestyle="",
        zorder=3,
        **_mark(look, theme, decoding, size),
    )


def _cross(axes: Axes, points: Sequence[tuple[QualityPoint, OverSeeds]], reference: str | None, theme: Theme) -> None:
    """Lines through the reference."""
    for point, dist in points:
        if point.method == reference and point.decoding == TOP1:
            cross(axes, theme, dist.mean, point.f1.mean)
            return


def _mark(look: Look, theme: Theme, decoding: str, size: float) -> dict[str, Any]:
    """Marker settings; what is not filled hides the lines below."""
    fill = _FILLS.get(decoding, "hollow")
    mark = {"marker": look.marker, "markersize": size, "markerfacecoloralt": theme.background}
    if fill == "hollow":
        return {**mark, "markerfacecolor": theme.background}
    return {**mark, "fillstyle": fill}


def _handle(name: str, look: Look, theme: Theme, decoding: str = TOP1) -> Line2D:
    return Line2D([], [], color=look.colour, linewidth=0, label=label(name), **_mark(look, theme, decoding, 5.5))
