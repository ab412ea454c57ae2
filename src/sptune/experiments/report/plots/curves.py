"""Validation perplexity against the tokens trained on, of every method that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sptune.experiments.report.curve import Curve
from sptune.experiments.report.plots.log_axis import make_logarithmic
from sptune.experiments.report.plots.looks import looks
from sptune.report.plots.style import Theme, dress, label, legend, new_figure

_COLUMNS = 4
_WIDE = 3.0  # a range of perplexities by this factor is drawn on a logarithmic axis


@dataclass(frozen=True, slots=True)
class MethodCurves:
    """A method and its curves, one a seed (and a setting)."""

    method: str
    curves: tuple[Curve, ...]


def plot_curves(methods: Sequence[MethodCurves], *, theme: Theme, reference: str | None) -> Figure | None:
    """One line a seed, one colour a method.

    Args:
        methods: all methods, so that colours are those of the other plots; those without a curve are not drawn.
        theme: colours.
        reference: its method, in ink.

    Returns:
        The figure; None where there is nothing to draw.
    """
    drawn = [(one.method, curve) for one in methods for curve in one.curves if curve and any(curve.tokens)]
    if not drawn:
        return None
    styles = looks([one.method for one in methods], reference, theme)
    shown = {name: look for name, look in styles.items() if any(name == method for method, _ in drawn)}
    figure = new_figure(theme, height=3.4 + 0.19 * (-(-len(shown) // _COLUMNS)))
    axes = figure.subplots()
    dress(axes, theme, title="Validation perplexity", x="thousands of training tokens", y="perplexity per token")
    for method, curve in drawn:
        look = shown[method]
        front = 4 if method == reference else 3
        tokens = [count / 1000 for count in curve.tokens]
        axes.plot(tokens, curve.perplexity, color=look.colour, linewidth=1.2, alpha=0.85, zorder=front)
        axes.plot(tokens, curve.perplexity, color=look.colour, linewidth=0, marker=look.marker, ms=3.5, zorder=front)
    values = [value for _, curve in drawn for value in curve.perplexity]
    if max(values) > _WIDE * min(values):
        make_logarithmic(axes, "y")
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linewidth=1.2, markersize=4.5, label=label(name))
        for name, look in shown.items()
    ]
    legend(axes, theme, columns=min(_COLUMNS, len(handles)), handles=handles)
    return figure
