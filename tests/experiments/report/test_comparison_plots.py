from __future__ import annotations

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from sptune.experiments.report.curve import Curve
from sptune.experiments.report.plots.curves import MethodCurves, plot_curves
from sptune.experiments.report.plots.forest import Gain, GainPanel, plot_forest, shown_limit
from sptune.experiments.report.plots.grid_lines import GridLines, GridPanel, plot_grid
from sptune.experiments.report.plots.looks import MARKERS, looks
from sptune.experiments.report.plots.quality import HumanDiversity, QualityPoint, plot_quality
from sptune.experiments.report.plots.usage_map import UsageRow, plot_usage_map
from sptune.experiments.report.system import OverSeeds
from sptune.report.plots.style import DARK, LIGHT, WIDTH, Theme, png


def value(mean: float, spread: float | None = 0.5) -> OverSeeds:
    return OverSeeds(mean, spread, 2)


POINTS = [
    QualityPoint("pt", "", value(17.0), value(30.0), value(32.0)),
    QualityPoint("k", "1", value(16.0), value(31.0), value(33.0)),
    QualityPoint("k", "8", value(18.0, None), value(36.0), value(38.0)),
]
CURVE = Curve((1, 2), (1000.0, 2000.0), (30.0, 25.0))
GRID = GridLines(
    "k",
    "prompts.count",
    (1, 4, 16),
    (
        GridPanel("Perplexity", (value(24.0), value(23.0), None), 24.5),
        GridPanel("F1, %", (None, None, None), 17.0),
        GridPanel("DIST-2, %", (value(30.0), value(33.0), value(35.0)), None),
    ),
)


def gain(label: str, at: float, *, significant: bool = True) -> Gain:
    return Gain(label, at, at - 1, at + 1, significant)


def every_figure(theme: Theme) -> list[Figure | None]:
    panels = [GainPanel("F1", (gain("a", 5.0), gain("b", -2.0, significant=False)))]
    return [
        plot_forest(panels, {"a": "a", "b": "b"}, theme=theme),
        plot_quality(POINTS, HumanDiversity(70.0, None), theme=theme, reference="pt"),
        plot_usage_map([UsageRow("spt", 0, (0.2, 0.8))], theme=theme),
        plot_curves([MethodCurves("pt", (CURVE,))], theme=theme, reference="pt"),
        plot_grid(GRID, theme=theme, reference="pt"),
    ]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_plot_is_as_wide_as_the_others_has_the_themes_ground_and_changes_nothing_global(theme: Theme) -> None:
    before = dict(mpl.rcParams)
    for figure, again in zip(every_figure(theme), every_figure(theme), strict=True):
        assert figure
        assert again
        assert figure.get_figwidth() == WIDTH
        assert mpl.colors.to_hex(figure.get_facecolor()) == theme.background
        assert png(figure) == png(again)
    assert dict(mpl.rcParams) == before


def test_without_figures_there_is_no_plot() -> None:
    assert plot_forest([GainPanel("F1", ())], {"a": "a"}, theme=LIGHT) is None
    assert plot_quality([], HumanDiversity(70.0, 70.0), theme=LIGHT, reference=None) is None
    assert plot_usage_map([], theme=LIGHT) is None
    assert plot_curves([MethodCurves("zero-shot", (Curve(),))], theme=LIGHT, reference=None) is None
    assert plot_grid(GridLines("k", "x", (1,), GRID.panels), theme=LIGHT, reference=None) is None


def test_quality_shows_every_system_and_the_human_dist_as_a_line() -> None:
    figure = plot_quality(POINTS, HumanDiversity(70.0, 80.0), theme=LIGHT, reference="pt")
    assert figure is not None
    first, second = figure.axes
    shown = [(line.get_xdata()[0], line.get_ydata()[0]) for line in first.lines if line.get_marker() in ("D", *MARKERS)]
    assert (30.0, 17.0) in shown
    assert [line.get_xdata()[0] > 60 for line in first.lines].count(True) == 1
    assert second.get_xlim()[1] > 80
    assert {"human responses", "1", "8"} <= {text.get_text() for text in first.texts}
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["pt", "k"]


def test_quality_tells_decodings_by_how_the_marks_are_filled() -> None:
    """A decoding has the mark of its method, and a line from the point that it comes from."""
    decoded = [
        QualityPoint("k", "8", value(19.0), value(33.0), None, "gated"),
        QualityPoint("pt", "", value(20.0), value(40.0), None, "rerank"),
    ]
    figure = plot_quality([*POINTS, *decoded], HumanDiversity(70.0, None), theme=LIGHT, reference="pt")
    assert figure
    first, second = figure.axes
    marked = {
        (line.get_xdata()[0], line.get_ydata()[0]): line for line in first.lines if line.get_marker() in ("D", *MARKERS)
    }
    assert {(33.0, 19.0), (40.0, 20.0), (30.0, 17.0)} <= marked.keys()
    grid, gated, reranked = marked[31.0, 16.0], marked[33.0, 19.0], marked[40.0, 20.0]
    assert (gated.get_color(), gated.get_marker()) == (grid.get_color(), grid.get_marker())
    assert (grid.get_fillstyle(), gated.get_fillstyle()) == ("full", "left")
    assert (reranked.get_marker(), reranked.get_markerfacecolor()) == ("D", LIGHT.background)
    joined = [list(line.get_xdata()) for line in first.lines]
    assert [36.0, 33.0] in joined
    assert [30.0, 40.0] in joined
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["pt", "k", "gated", "rerank"]
    assert len(second.lines) < len(first.lines), "adjusted DIST is known of fewer"


def test_methods_look_different_from_one_another_and_the_same_on_every_plot() -> None:
    names = [f"method {number}" for number in range(20)]
    found = looks(["pt", *names], "pt", LIGHT)
    assert len({(look.colour, look.marker) for look in found.values()}) == 21
    assert found["pt"].colour == LIGHT.ink
    assert looks([*names, "pt", *names], "pt", LIGHT) == found
    assert "pt" not in looks(names, "pt", LIGHT)


def test_the_forest_keeps_points_and_turns_far_ones_into_arrows() -> None:
    gains = tuple(gain(name, at) for name, at in (("a", 4.0), ("b", -3.0), ("c", 5.0), ("d", -120.0)))
    assert shown_limit(gains) == 20.0
    assert shown_limit(gains[:3]) == 6.0
    figure = plot_forest([GainPanel("Perplexity saved", gains)], {name: name for name in "abcd"}, theme=LIGHT)
    assert figure is not None
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["−120"]
    assert axes.get_xlim()[0] > -30
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert points == [(4.0, 0), (-3.0, 1), (5.0, 2)]


def test_an_interval_that_goes_on_beyond_the_plot_ends_in_an_arrowhead() -> None:
    gains = (
        gain("a", 1.0),
        gain("b", 2.0),
        gain("c", -1.5),
        Gain("d", -1.6, -106.0, 147.0, False),
        Gain("e", 2.0, 1.0, 99.0, True),
    )
    figure = plot_forest([GainPanel("F1", gains)], {name: name for name in "abcde"}, theme=LIGHT)
    assert figure is not None
    (axes,) = figure.axes
    limit = shown_limit(gains)
    heads = {(line.get_marker(), line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines}
    assert {head for head in heads if head[0] in {"<", ">"}} == {("<", -limit, 3), (">", limit, 3), (">", limit, 4)}


def test_usage_is_sorted_within_each_adapter() -> None:
    rows = [UsageRow("spt", 0, (0.2, 0.0, 0.8)), UsageRow("spt", 1, (0.5, 0.5)), UsageRow("k", 0, (1.0, 0.0))]
    figure = plot_usage_map(rows, theme=LIGHT)
    assert figure is not None
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["80", "20", "0", "50", "50", "100", "0"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["spt  seed 0", "seed 1", "k  seed 0"]


def test_curves_are_over_thousands_of_tokens() -> None:
    methods = [MethodCurves("pt", (CURVE, CURVE)), MethodCurves("zero-shot", (Curve(),))]
    figure = plot_curves(methods, theme=LIGHT, reference="pt")
    assert figure is not None
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == [1.0, 2.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["pt"]


def test_a_grid_has_a_panel_for_each_figure_and_a_line_for_the_reference() -> None:
    figure = plot_grid(GRID, theme=LIGHT, reference="pt")
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Perplexity", "DIST-2, %"]
    first = figure.axes[0]
    assert first.get_xscale() == "log"
    assert [24.5, 24.5] in [list(line.get_ydata()) for line in first.lines]
    assert [text.get_text() for text in first.texts] == ["pt"]


def test_a_grid_of_words_has_no_line_between_them() -> None:
    panel = GridPanel("DIST-2, %", (value(30.0), value(33.0)), None)
    grid = GridLines("u", "losses.update", ("all", "responsibility"), (panel,))
    figure = plot_grid(grid, theme=LIGHT, reference=None)
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"
    assert axes.lines[0].get_linewidth() == 0
    assert [text.get_text() for text in axes.get_xticklabels()] == ["all", "responsibility"]
