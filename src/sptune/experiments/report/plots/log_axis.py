"""A logarithmic axis with the numbers of a plain one: equal steps are equal shares."""

from __future__ import annotations

from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator


def make_logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, once all is drawn; a few round numbers are written along it."""
    axes.set(**{f"{which}scale": "log"})
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis = axes.xaxis if which == "x" else axes.yaxis
    places = MaxNLocator(nbins=8, steps=[1, 2, 5, 10]).tick_values(low, high)
    axis.set_ticks([place for place in places if low <= place <= high])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axes.set(**{f"{which}lim": (low, high)})
