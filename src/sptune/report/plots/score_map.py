"""The retriever's scores beside the losses they should follow, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from sptune.report.plots.style import SMALL, Theme, dress, new_figure

MOST_TURNS = 60
_LEAST_ROWS = 20  # fewer are drawn as high as so many
_LABEL_ROWS = 1.6  # that a label is high


@dataclass(frozen=True, slots=True)
class TurnScores:
    """The scores of one turn.

    Attributes:
        prompt: the chosen prompt.
        scores: K scores s_ik.
        losses: K losses l_ik, nats per token; None where they were not computed.
    """

    prompt: int
    scores: tuple[float, ...]
    losses: tuple[float, ...] | None = None


def plot_score_map(turns: Sequence[TurnScores], *, theme: Theme) -> Figure | None:
    """Heat maps of scores, and of how much better or worse each prompt is than the mean of the prompts on that turn.

    Rows are turns, sorted by chosen prompt; at most 60 of them, evenly spaced in that order. Dots mark the
    chosen prompt.

    Args:
        turns: of one evaluation.
        theme: colours.

    Returns:
        The figure; None where there are no turns or K = 1.
    """
    if not turns or len(turns[0].scores) < 2:
        return None
    rows = sample_rows(turns)
    scored = all(row.losses is not None for row in rows)
    figure = new_figure(theme, height=1.5 + 0.075 * max(_LEAST_ROWS, len(rows)))
    panels = figure.subplots(1, 2 if scored else 1, sharey=True, squeeze=False)[0]
    _scores(panels[0], rows, theme)
    if scored:
        _advantages(panels[1], rows, theme)
    _groups(panels[0], rows, theme)
    panels[0].invert_yaxis()  # shared
    for axes in panels:
        _dots(axes, rows, theme)
    shown = f"{len(rows)} of {len(turns)}" if len(rows) < len(turns) else f"all {len(turns)}"
    panels[0].set_ylabel(f"{shown} turns, by chosen prompt", color=theme.muted, fontsize=SMALL)
    return figure


def sample_rows(turns: Sequence[TurnScores]) -> list[TurnScores]:
    """At most 60 turns, evenly spaced in the order of the chosen prompt and, within one, of the lead of its score."""
    ordered = sorted(turns, key=lambda turn: (turn.prompt, -_lead(turn)))
    if len(ordered) <= MOST_TURNS:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (MOST_TURNS - 1))] for i in range(MOST_TURNS)]


def _lead(turn: TurnScores) -> float:
    others = [score for k, score in enumerate(turn.scores) if k != turn.prompt]
    return turn.scores[turn.prompt] - max(others)


def _scores(axes: Axes, rows: Sequence[TurnScores], theme: Theme) -> None:
    values = np.array([row.scores for row in rows])  # (n, K)
    colours = LinearSegmentedColormap.from_list("scores", [theme.grid, theme.prompts[0], _deep(theme)])
    spread = float(values.max() - values.min()) or 1e-6
    norm = Normalize(values.min(), values.min() + spread)
    _map(
        axes,
        values,
        colours,
        norm,
        theme,
        title="Score: the retriever's view",
        unit="score (the highest is chosen)",
    )


def _advantages(axes: Axes, rows: Sequence[TurnScores], theme: Theme) -> None:
    losses = np.array([row.losses for row in rows])
    values = losses - losses.mean(1, keepdims=True)  # (n, K)
    limit = float(np.quantile(np.abs(values), 0.98)) or 1e-6  # one odd turn must not wash out the others
    middle = theme.background
    colours = LinearSegmentedColormap.from_list("advantages", [theme.prompts[0], middle, theme.prompts[5]])
    title, unit = "Loss: blue prompts did better", "loss minus the turn's mean, nats per token"
    _map(axes, values, colours, TwoSlopeNorm(0.0, -limit, limit), theme, title=title, unit=unit)


def _map(
    axes: Axes,
    values: np.ndarray,
    colours: LinearSegmentedColormap,
    norm: Normalize,
    theme: Theme,
    *,
    title: str,
    unit: str,
) -> None:
    dress(axes, theme, title=title, x="prompt")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    image = axes.pcolormesh(values, cmap=colours, norm=norm, edgecolors=theme.background, linewidth=0.4)
    count = values.shape[1]
    shown = range(0, count, max(1, count // 8))
    axes.set_xticks([k + 0.5 for k in shown], [str(k) for k in shown])
    bar = axes.figure.colorbar(
        image, ax=axes, location="bottom", fraction=0.05, pad=0.02, aspect=28, extend=_extend(norm)
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=SMALL, length=2)
    bar.set_label(unit, color=theme.muted, fontsize=SMALL)


def _extend(norm: Normalize) -> str:
    return "both" if isinstance(norm, TwoSlopeNorm) else "neither"


def _groups(axes: Axes, rows: Sequence[TurnScores], theme: Theme) -> None:
    """Name the rows that chose the same prompt, where there is room."""
    chosen = [row.prompt for row in rows]
    room = _LABEL_ROWS * len(rows) / max(_LEAST_ROWS, len(rows))
    places: dict[float, str] = {}
    for prompt in sorted(set(chosen)):
        middle = chosen.index(prompt) + chosen.count(prompt) / 2
        if not places or middle - max(places) > room:
            places[middle] = f"chose {prompt}"
    axes.set_yticks(list(places), list(places.values()))


def _dots(axes: Axes, rows: Sequence[TurnScores], theme: Theme) -> None:
    x = [row.prompt + 0.5 for row in rows]
    y = [number + 0.5 for number in range(len(rows))]
    axes.scatter(x, y, s=9, color=theme.ink, edgecolors=theme.background, linewidths=0.6, zorder=3)
    for number in range(1, len(rows)):
        if rows[number].prompt != rows[number - 1].prompt:
            axes.axhline(number, color=theme.ink, linewidth=0.9)


def _deep(theme: Theme) -> str:
    """The end of the scale: away from the background."""
    return "#08264a" if theme.background == "#ffffff" else "#e4f1fc"
