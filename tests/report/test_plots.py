from __future__ import annotations

import math
from dataclasses import fields
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from invented_run import train_record, validation_record
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from sptune.report.plots.comparison import Bar, Panel, plot_comparison
from sptune.report.plots.losses import plot_losses
from sptune.report.plots.score_map import MOST_TURNS, TurnScores, plot_score_map, sample_rows
from sptune.report.plots.series import running_mean, series, vector_series
from sptune.report.plots.similarity import pairs, plot_similarity
from sptune.report.plots.style import DARK, DPI, LIGHT, THEMES, WIDTH, Theme, label, new_figure, png, prompt_colour
from sptune.report.plots.trade_off import Traded, front, plot_trade_off
from sptune.report.plots.usage import plot_usage

TRAIN = [train_record(step) for step in range(1, 13)]
VALIDATION = [validation_record(step) for step in (4, 8, 12)]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def legend_of(figure: Figure, number: int) -> list[str]:
    legend = figure.axes[number].get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def turn(prompt: int, scores: tuple[float, ...], losses: tuple[float, ...] | None = None) -> TurnScores:
    return TurnScores(prompt, scores, losses)


def test_series_leave_out_records_without_the_figure() -> None:
    records = [{"step": 1, "llm": 2.0}, {"step": 2}, {"step": 3, "llm": 1.0}]
    found = series(records, "llm")
    assert (found.steps, found.values) == ((1, 3), (2.0, 1.0))
    assert not series(records, "fusion")


def test_vector_series_keep_the_last_number_of_prompts() -> None:
    records = [{"step": 1, "usage": [1.0]}, {"step": 2, "usage": [0.25, 0.75]}, {"step": 3, "usage": [0.5, 0.5]}]
    found = vector_series(records, "usage")
    assert found.steps == (2, 3)
    assert found.component(1).values == (0.75, 0.5)


def test_the_running_mean_of_a_constant_is_the_constant() -> None:
    assert running_mean([2.0] * 9, 3) == [2.0] * 9
    assert running_mean([1.0, 3.0, 8.0, 6.0], 1) == pytest.approx([2.0, 4.0, 17 / 3, 7.0])


def test_the_losses_have_a_panel_for_each_kind_and_show_the_records() -> None:
    figure = plot_losses(TRAIN, VALIDATION, theme=LIGHT, kept_step=8)
    assert figure is not None
    assert titles(figure) == [
        "Training loss",
        "Selection loss",
        "Contrastive loss",
        "Perplexity of the validation responses",
    ]
    total = figure.axes[0].lines[0]
    assert list(total.get_xdata()) == [record["step"] for record in TRAIN]
    assert list(total.get_ydata()) == [record["total"] for record in TRAIN]
    chosen = figure.axes[3].lines[0]
    assert list(chosen.get_ydata()) == [record["perplexity"] for record in VALIDATION]
    assert sorted(legend_of(figure, 3)) == sorted(
        ["chosen", "fused", "oracle", "prompt 0", "prompt 1", "prompt 2", "prompt 3"]
    )
    assert [text.get_text() for text in figure.axes[3].texts] == ["kept: step 8"]
    for axes in figure.axes:
        assert axes.get_xlabel() == "step"
        assert axes.get_ylabel()
        assert axes.get_xlim() == figure.axes[0].get_xlim()
        assert any(list(line.get_xdata()) == [8, 8] for line in axes.lines)


def test_losses_that_were_switched_off_have_no_panel() -> None:
    off = [record | {"contrastive": 0.0, "selection": 0.0, "fusion": 0.0} for record in TRAIN]
    figure = plot_losses(off, [], theme=LIGHT)
    assert figure is not None
    assert titles(figure) == ["Training loss"]
    assert legend_of(figure, 0) == ["total (weighted sum)", "LLM"]


def test_one_prompt_has_one_perplexity() -> None:
    figure = plot_losses([], [validation_record(step, prompts=1) for step in (4, 8)], theme=LIGHT)
    assert figure is not None
    assert len(figure.axes[0].lines) == 1
    assert legend_of(figure, 0) == []


def test_many_prompts_are_not_named_one_by_one() -> None:
    figure = plot_losses([], [validation_record(step, prompts=12) for step in (4, 8)], theme=LIGHT)
    assert figure is not None
    assert set(legend_of(figure, 0)) == {"chosen", "fused", "oracle", "each prompt"}
    assert len(figure.axes[0].lines) == 1 + 2 + 12


def test_many_points_get_a_running_mean() -> None:
    figure = plot_losses([train_record(step) for step in range(1, 101)], [], theme=LIGHT)
    assert figure is not None
    thin, thick = figure.axes[0].lines[:2]
    assert thin.get_linewidth() < thick.get_linewidth()
    assert np.std(np.diff(thick.get_ydata())) <= np.std(np.diff(thin.get_ydata()))


def test_nothing_to_draw_is_no_figure() -> None:
    assert plot_losses([], [], theme=LIGHT) is None
    assert plot_usage([], [], theme=LIGHT) is None
    assert plot_usage([train_record(1, prompts=1)], [], theme=LIGHT) is None
    assert plot_score_map([], theme=LIGHT) is None
    assert plot_score_map([turn(0, (1.0,), (2.0,))], theme=LIGHT) is None
    assert plot_similarity([[1.0]], theme=LIGHT) is None
    assert plot_similarity((), theme=LIGHT) is None
    assert plot_comparison([], theme=LIGHT) is None


def test_shares_are_stacked_to_a_hundred() -> None:
    usage = [[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]
    train = [train_record(step, prompts=3, usage=row) for step, row in enumerate(usage, start=1)]
    figure = plot_usage(train, VALIDATION, theme=LIGHT)
    assert figure is not None
    shares, evenness = figure.axes
    tops = [max(area.get_paths()[0].vertices[:, 1]) for area in shares.collections]
    assert tops == pytest.approx([50, 75, 100])
    assert legend_of(figure, 0) == ["prompt 0", "prompt 1", "prompt 2"]
    assert list(evenness.lines[1].get_xdata()) == [4, 8, 12]


def test_each_warning_is_marked_and_numbered() -> None:
    figure = plot_usage(TRAIN, [], theme=LIGHT, warnings=[3, 9])
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["⚠ 1", "⚠ 2"]
    assert [text.xy[0] for text in figure.axes[0].texts] == [3, 9]


def test_prompts_beyond_the_colours_are_stacked_as_one() -> None:
    usage = [0.0] * 12
    usage[3], usage[11] = 0.6, 0.4
    figure = plot_usage([train_record(step, usage=usage) for step in (1, 2)], [], theme=LIGHT)
    assert figure is not None
    names = legend_of(figure, 0)
    assert len(figure.axes[0].collections) == len(names) == 8
    assert {"prompt 3", "prompt 11", "5 others"} <= set(names)


def test_one_record_is_an_area_too() -> None:
    figure = plot_usage(TRAIN[:1], [], theme=LIGHT)
    assert figure is not None
    assert np.ptp(figure.axes[0].collections[0].get_paths()[0].vertices[:, 0]) > 0


def test_the_score_map_shows_scores_and_losses_against_the_mean_of_the_turn() -> None:
    turns = [turn(1, (0.1, 0.9), (3.0, 1.0)), turn(0, (0.8, 0.2), (2.0, 2.5))]
    figure = plot_score_map(turns, theme=LIGHT)
    assert figure is not None
    left, right = figure.axes[:2]
    scores, advantages = (np.array(axes.collections[0].get_array()).reshape(2, 2) for axes in (left, right))
    assert scores.tolist() == [[0.8, 0.2], [0.1, 0.9]]  # the turn that chose prompt 0 first
    assert advantages.tolist() == [[-0.25, 0.25], [1.0, -1.0]]
    assert [list(point) for point in left.collections[1].get_offsets()] == [[0.5, 0.5], [1.5, 1.5]]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["chose 0", "chose 1"]
    assert left.yaxis_inverted()
    assert "all 2 turns" in left.get_ylabel()


def test_turns_without_losses_have_scores_alone() -> None:
    figure = plot_score_map([turn(0, (0.8, 0.2)), turn(1, (0.1, 0.2))], theme=LIGHT)
    assert figure is not None
    assert titles(figure)[0].startswith("Score")
    assert not any(title.startswith("Loss") for title in titles(figure))


def test_at_most_sixty_turns_are_sampled_in_proportion_and_order() -> None:
    turns = [turn(n % 4 // 3, (n / 400, 1 - n / 400)) for n in range(400)]  # a quarter chose prompt 1
    rows = sample_rows(turns)
    chosen = [row.prompt for row in rows]
    assert len(rows) == MOST_TURNS
    assert chosen == sorted(chosen)
    assert chosen.count(1) == MOST_TURNS // 4
    assert sample_rows(list(reversed(turns))) == rows
    assert len(sample_rows(turns[:7])) == 7


def test_the_similarity_matrix_is_written_in_numbers() -> None:
    matrix = [[1.0, 0.25, -0.5], [0.25, 1.0, 0.125], [-0.5, 0.125, 1.0]]
    figure = plot_similarity(matrix, theme=LIGHT)
    assert figure is not None
    assert len(figure.axes) == 1
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == ["1", "0.25", "-0.50", "0.25", "1", "0.12", "-0.50", "0.12", "1"]
    assert sorted(pairs(matrix)) == [-0.5, 0.125, 0.25]


def test_many_prompts_have_a_scale_in_place_of_numbers() -> None:
    figure = plot_similarity(np.eye(12).tolist(), theme=LIGHT)
    assert figure is not None
    assert not list(figure.axes[0].texts)
    assert len(figure.axes) == 2


def test_the_history_of_similarities_is_drawn_from_two_steps_on() -> None:
    history = [(record["step"], record["prompt_similarity"]) for record in VALIDATION]
    matrix = history[-1][1]
    once, often = (plot_similarity(matrix, part, theme=LIGHT) for part in (history[:1], history))
    assert once is not None
    assert often is not None
    assert (len(once.axes), len(often.axes)) == (1, 2)
    mean = often.axes[1].lines[0]
    assert list(mean.get_ydata()) == pytest.approx([0.46, 0.42, 0.38])


def bars(*values: float | None) -> tuple[Bar, ...]:
    roles = ("other", "main", "human")
    return tuple(
        Bar(f"${role}$", value, "–" if value is None else f"{value:.1f}", role)
        for role, value in zip(roles, values, strict=True)
    )


def test_each_metric_has_a_panel_and_each_system_a_bar_of_its_value() -> None:
    panels = [Panel("F1 (%)", "higher is better", bars(10.0, 20.0, None)), Panel("Words", "", bars(5.0, 8.0, 9.0))]
    figure = plot_comparison(panels, theme=LIGHT)
    assert figure is not None
    assert titles(figure) == ["F1 (%)", "Words"]
    widths = [[patch.get_width() for patch in axes.patches] for axes in figure.axes]
    assert widths == [[10.0, 20.0, 0.0], [5.0, 8.0, 9.0]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["10.0", "20.0", "–"]
    assert figure.axes[1].patches[2].get_hatch()
    assert figure.axes[0].get_xlim()[0] == 0
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == [r"\$other\$", r"\$main\$", r"\$human\$"]  # as text, not as a formula


def test_panels_that_do_not_fill_the_last_row_leave_no_empty_axes() -> None:
    figure = plot_comparison([Panel(str(n), "", bars(1.0, 2.0, 3.0)) for n in range(4)], theme=LIGHT)
    assert figure is not None
    assert len(figure.axes) == 4


def test_long_names_are_shortened() -> None:
    assert label("k1") == "k1"
    assert label("a-very-long-name-indeed") == "a-very-long-n…"


def test_a_picture_is_a_png_and_always_the_same() -> None:
    settings = dict(mpl.rcParams)
    figure = plot_losses(TRAIN, VALIDATION, theme=DARK)
    again = plot_losses(TRAIN, VALIDATION, theme=DARK)
    assert figure is not None
    assert again is not None
    content = png(figure)
    assert content == png(again)
    with Image.open(BytesIO(content)) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] == round(WIDTH * DPI)
        colours = picture.convert("RGB").getcolors(maxcolors=2**20)
    assert colours is not None
    assert len(colours) > 10
    assert max(colours)[1] == tuple(round(255 * part) for part in to_rgb(DARK.background))
    assert dict(mpl.rcParams) == settings


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_text_can_be_read_and_colours_be_told_apart(theme: Theme) -> None:
    for colour in (theme.ink, theme.muted, theme.accent, theme.warning):
        assert contrast(colour, theme.background) >= 4.5
    for colour in theme.prompts:
        assert contrast(colour, theme.background) >= 2
    assert len({getattr(theme, field.name) for field in fields(theme)}) == len(fields(theme))
    assert len(set(theme.prompts)) == 8
    assert prompt_colour(theme, 3) == theme.prompts[3]
    assert prompt_colour(theme, 99) == theme.muted


def test_figures_belong_to_no_window() -> None:
    figure = new_figure(LIGHT, height=1.0)
    assert figure.canvas.manager is None


def contrast(one: str, other: str) -> float:
    """WCAG 2.1 contrast ratio."""
    light = sorted((luminance(one), luminance(other)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def luminance(colour: str) -> float:
    linear = [part / 12.92 if part <= 0.04045 else math.pow((part + 0.055) / 1.055, 2.4) for part in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_front_is_what_no_other_equals_or_beats_in_both() -> None:
    points = [(random, other, "") for random, other in np.random.default_rng(0).random((40, 2)).round(1)]
    best = front(points)
    for one in points:
        beaten = any(other[0] >= one[0] and other[1] >= one[1] and other[:2] != one[:2] for other in points)
        assert (one in best) == (not beaten)
    assert best == sorted(best, key=lambda point: -point[0])


def test_a_trade_off_labels_its_front_and_shows_what_it_is_against() -> None:
    points = [Traded("0.5", 19.0, 50.0, 55.0), Traded("1", 18.0, 60.0, 66.0), Traded("0", 17.5, 40.0, 44.0)]
    figure = plot_trade_off(
        points, labels="prior_weight", human=(70.0, 77.0), theme=LIGHT, against=Traded("against", 17.0, 35.0, 38.0)
    )
    for number, axes in enumerate(figure.axes):
        texts = [text.get_text() for text in axes.texts]
        assert {"0.5", "1", "against", "human responses"} == set(texts)
        places = {text.get_text(): text.xy for text in axes.texts}
        assert places["1"] == ((60.0, 66.0)[number], 18.0)
        assert places["human responses"][0] == (70.0, 77.0)[number]
    assert "labels: prior_weight" in legend_of(figure, 0)[0]
    assert png(figure)
