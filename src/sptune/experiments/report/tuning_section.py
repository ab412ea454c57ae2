"""The learning rates that each method tried, and where a better one may lie beyond them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sptune.experiments.report.folder import Comparison
from sptune.experiments.report.trials import Tuned, group_trials
from sptune.experiments.tuning_log import Trial
from sptune.report.document import Block, Cell, Paragraph, Row, Section, Table, Warnings


def tuning_section(comparison: Comparison) -> Section | None:
    """The trials; None where there are none."""
    tuned = group_trials(comparison.trials)
    if not tuned:
        return None
    most = max(len(one.trials) for one in tuned)
    columns = ("", *(f"rate {number}" for number in range(1, most + 1)), "seconds")
    warnings = tuple(text for one in tuned for text in tuning_warnings(one))
    blocks: list[Block] = [Paragraph(_explanation(comparison.trials)), *([Warnings(warnings)] if warnings else [])]
    return Section("Tuning", (*blocks, Table(columns, tuple(_row(one, most) for one in tuned))))


def tuning_warnings(one: Tuned) -> Iterator[str]:
    """Where rates gave no figure, so that less was tried, or the best one lies at an end of those tried."""
    name = tuned_name(one)
    if one.best is None:
        yield f"{name}: no learning rate gave a perplexity."
        return
    if failed := sum(trial.perplexity is None for trial in one.trials):
        less = (
            f"{failed} of {len(one.trials)} learning rates gave no figure, so it was tuned with less effort than others"
        )
        yield f"{name}: {less}; try again with --retry-failed."
    if one.edge:
        yield f"{name}: the best rate, {one.best.learning_rate:g}, is the {one.edge} that was tried; a better one may lie beyond."


def tuned_name(one: Tuned) -> str:
    """The method, and the setting where it has one."""
    return " ".join([one.method, *(f"{key}={value}" for key, value in one.setting.items())])


def _explanation(trials: Sequence[Trial]) -> str:
    counts = sorted({trial.dialogues for trial in trials if trial.dialogues is not None})
    data = f" on the first {' or '.join(map(str, counts))} training dialogues" if counts else ""
    seeds = ", ".join(map(str, sorted({trial.seed for trial in trials})))
    return (
        f"Each method was trained for a short time{data} with every learning rate (seed {seeds}); the lowest validation perplexity "
        "won, and is marked ✓. With each perplexity stands its rate."
    )


def _row(one: Tuned, most: int) -> Row:
    cells = [_trial(trial, chosen=trial is one.best) for trial in one.trials]
    empty = [Cell("")] * (most - len(cells))
    seconds = sum(trial.seconds or 0.0 for trial in one.trials)
    return Row((Cell(tuned_name(one)), *cells, *empty, Cell(f"{seconds:,.0f}")))


def _trial(trial: Trial, *, chosen: bool) -> Cell:
    text = "no figure" if trial.perplexity is None else f"{trial.perplexity:,.2f}{' ✓' if chosen else ''}"
    return Cell(text, detail=f"{trial.learning_rate:g}")
