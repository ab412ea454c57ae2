"""The plots of a run, on light and on dark, with their captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from sptune.report.document import Plot
from sptune.report.overview import training_warnings
from sptune.report.plots.comparison import plot_comparison
from sptune.report.plots.losses import plot_losses
from sptune.report.plots.score_map import plot_score_map
from sptune.report.plots.similarity import plot_similarity
from sptune.report.plots.style import THEMES, Theme, png
from sptune.report.plots.usage import plot_usage
from sptune.report.results import comparison_panels
from sptune.report.run_folder import RunFolder
from sptune.report.selection import turn_scores

NAMES = ("losses", "usage", "scores", "similarity", "comparison")

_TITLES = {
    "losses": "Losses over the steps of training, and perplexities of the validation responses",
    "usage": "Share of contexts that choose each prompt, over the steps of training",
    "scores": "Scores of the prompts beside their losses, turn by turn",
    "similarity": "Cosine similarity of the prompts",
    "comparison": "The main figures of each system and of the human responses",
}
_CAPTIONS = {
    "losses": (
        "Thin lines are single records, thick ones a running mean. In the perplexities: chosen is what the retriever "
        "picks, fused the average of all prompts' predictions, oracle the best prompt of each turn in hindsight."
    ),
    "usage": "Shares are of the last 512 training contexts at most. Dashed lines mark warnings, numbered as above.",
    "scores": (
        "Each row is a turn of the test data; a dot marks the prompt that was chosen. Where scores follow losses, the "
        "strongest cells on the left stand where the cells on the right are blue."
    ),
    "similarity": (
        "Of the flattened soft prompts: 1 is the same, 0 unrelated. Prompts that stay alike leave little to choose."
    ),
    "comparison": (
        "Each panel has its own scale, from zero. Hatched bars are the human responses, where the figure needs no "
        "reference."
    ),
}


@dataclass(frozen=True, slots=True)
class RunPlot:
    """A plot: what a document says of it, and its picture on light and on dark (PNG)."""

    plot: Plot
    light: bytes
    dark: bytes


def make_plots(run: RunFolder) -> dict[str, RunPlot]:
    """Every plot that the run has the figures for, by name."""
    makers: dict[str, Callable[[Theme], Figure | None]] = {
        "losses": lambda theme: plot_losses(run.train, run.validation, theme=theme, kept_step=_kept_step(run)),
        "usage": lambda theme: plot_usage(run.train, run.validation, theme=theme, warnings=_warned_steps(run)),
        "scores": lambda theme: plot_score_map(turn_scores(run.main) if run.main else (), theme=theme),
        "similarity": lambda theme: plot_similarity(run.similarity or (), _history(run), theme=theme),
        "comparison": lambda theme: plot_comparison(comparison_panels(run), theme=theme),
    }
    made = {}
    for name in NAMES:
        light, dark = (makers[name](theme) for theme in THEMES.values())
        if light and dark:
            plot = Plot(name, _TITLES[name], _CAPTIONS[name], light.get_figwidth())
            made[name] = RunPlot(plot, png(light), png(dark))
    return made


def _kept_step(run: RunFolder) -> int | None:
    return int(run.kept["step"]) if run.kept and run.finished else None


def _warned_steps(run: RunFolder) -> list[int]:
    return [step for step, _ in training_warnings(run)]


def _history(run: RunFolder) -> list[tuple[int, list[list[float]]]]:
    return [(record["step"], record["prompt_similarity"]) for record in run.validation if "prompt_similarity" in record]
