"""The losses over the steps of training, and the perplexities of the validation dialogues."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from sptune.report.plots.series import Record, Series, running_mean, series, vector_series
from sptune.report.plots.style import MOST_NAMED, SMALL, Theme, dress, legend, new_figure, prompt_colour

_SMOOTHED = 24  # more points than this are drawn thin, with a running mean over an eighth of them


def plot_losses(
    train: Sequence[Record], validation: Sequence[Record], *, theme: Theme, kept_step: int | None = None
) -> Figure | None:
    """Losses (total, LLM, fusion; selection; contrastive) and perplexities over the steps.

    Args:
        train: records of kind `train`.
        validation: records of kind `validation`.
        theme: colours.
        kept_step: the step whose adapter was kept, marked where it is known.

    Returns:
        The figure; None where there is nothing to draw.
    """
    parts = {name: series(train, name) for name in ("total", "llm", "fusion", "selection", "contrastive")}
    rows = [row for row in (["main", "main"], _minor(parts)) if row and any(parts.values())]
    if series(validation, "perplexity"):
        rows.append(["perplexity", "perplexity"])
    if not rows:
        return None
    heights = {"main": 2.5, "perplexity": 2.7}
    sizes = [heights.get(row[0], 1.7) for row in rows]
    figure = new_figure(theme, height=sum(sizes))
    panels: dict[str, Axes] = figure.subplot_mosaic(rows, height_ratios=sizes)
    if "main" in panels:
        _main(panels["main"], parts, theme)
    for name, unit in (("selection", "KL, nats"), ("contrastive", "mean over pairs")):
        if name in panels:
            dress(panels[name], theme, title=f"{name.capitalize()} loss", x="step", y=unit)
            _line(panels[name], parts[name], theme.accent, theme)
    if "perplexity" in panels:
        _perplexities(panels["perplexity"], validation, theme)
    _steps(panels, [record["step"] for record in (*train, *validation)], kept_step, theme)
    return figure


def _steps(panels: dict[str, Axes], steps: Sequence[int], kept_step: int | None, theme: Theme) -> None:
    """The same steps on every panel, and the one whose adapter was kept."""
    margin = 0.02 * (max(steps) - min(steps)) or 0.5
    for axes in panels.values():
        axes.set_xlim(min(steps) - margin, max(steps) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if kept_step is not None:
            axes.axvline(kept_step, color=theme.muted, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    if kept_step is not None and "perplexity" in panels:
        _name_kept(panels["perplexity"], kept_step, theme)


def _minor(parts: dict[str, Series]) -> list[str]:
    """The small panels: losses that were switched off are zero throughout, and have none."""
    used = [name for name in ("selection", "contrastive") if any(parts[name].values)]
    return used * 2 if len(used) == 1 else used


def _main(axes: Axes, parts: dict[str, Series], theme: Theme) -> None:
    dress(axes, theme, title="Training loss", x="step", y="nats per token")
    names = {
        "total": ("total (weighted sum)", theme.ink),
        "llm": ("LLM", theme.prompts[0]),
        "fusion": ("fusion", theme.prompts[1]),
    }
    shown = {name: look for name, look in names.items() if any(parts[name].values)}
    for name, (label, colour) in shown.items():
        _line(axes, parts[name], colour, theme, label=label, dashed=name == "fusion")
    axes.set_ylim(bottom=0.0)
    legend(axes, theme, columns=max(1, len(shown)))


def _line(axes: Axes, found: Series, colour: str, theme: Theme, *, label: str = "", dashed: bool = False) -> None:
    style = (0, (3, 1.5)) if dashed else "-"
    if len(found.steps) > _SMOOTHED:
        axes.plot(found.steps, found.values, color=colour, linewidth=0.7, alpha=0.35)
        smooth = running_mean(found.values, len(found.values) // 16)
        axes.plot(found.steps, smooth, color=colour, linewidth=1.8, linestyle=style, label=label)
    else:
        axes.plot(found.steps, found.values, color=colour, linewidth=1.8, linestyle=style, label=label)
        axes.plot(found.steps, found.values, color=colour, linewidth=0, marker="o", ms=3)


def _perplexities(axes: Axes, validation: Sequence[Record], theme: Theme) -> None:
    dress(axes, theme, title="Perplexity of the validation responses", x="step", y="perplexity per token")
    each = vector_series(validation, "prompt_perplexity")
    count = len(each.values[0]) if each else 1
    chosen = series(validation, "perplexity")
    axes.plot(chosen.steps, chosen.values, color=theme.ink, linewidth=2.4, marker="o", ms=4, label="chosen", zorder=3)
    if count > 1:
        for name, label, style in (("fused_perplexity", "fused", (0, (3, 1.5))), ("oracle_perplexity", "oracle", ":")):
            one = series(validation, name)
            axes.plot(one.steps, one.values, color=theme.ink, linewidth=1.4, linestyle=style, label=label)
        for prompt in range(count):
            one = each.component(prompt)
            label = f"prompt {prompt}" if count <= MOST_NAMED else ("each prompt" if prompt == 0 else "")
            colour = prompt_colour(theme, prompt) if count <= MOST_NAMED else theme.muted
            axes.plot(one.steps, one.values, color=colour, linewidth=0.9, label=label, marker=".", ms=3)
    lowest, highest = min(chosen.values), max(max(row) for row in each.values) if each else max(chosen.values)
    if highest > 4 * lowest:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    labels = len(axes.get_legend_handles_labels()[1])
    if labels > 1:
        legend(axes, theme, columns=labels if labels <= 5 else -(-labels // 2))


def _name_kept(axes: Axes, step: int, theme: Theme) -> None:
    left, right = axes.get_xlim()
    beyond = step > (left + right) / 2
    axes.annotate(
        f"kept: step {step}",
        (step, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if beyond else 4, -3),
        textcoords="offset points",
        ha="right" if beyond else "left",
        va="top",
        fontsize=SMALL,
        color=theme.muted,
    )
