"""A robustness test as a table for the terminal, and as `report.md` with its plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.evaluation.table import Table as TextTable
from sptune.experiments.robustness.movement import KEPT
from sptune.files import write_text
from sptune.report.differences import rough_intervals
from sptune.report.document import Bullets, Cell, Document, Paragraph, Plot, Row, Section, Table, Warnings, table_row
from sptune.report.markdown import to_markdown
from sptune.report.metric_specs import GROUPS

if TYPE_CHECKING:
    from sptune.experiments.robustness.movement import MetricMovement
    from sptune.experiments.robustness.result import Condition, RobustnessResult

REPORT_NAME, PLOTS_NAME, PLOT_NAME = "report.md", "plots", "robustness"
_CLEAN = "clean input"
_SMALLEST = 0.005  # of a difference: less rounds to nothing

LABELS = {spec.key: spec.label for specs in GROUPS.values() for spec in specs} | {
    "perplexity": "perplexity",
    KEPT: "perplexity, prompt kept",
    "mrr": "MRR",
}
_BETTER = {spec.key: spec.better for specs in GROUPS.values() for spec in specs} | {KEPT: "lower"}


def caption(result: RobustnessResult) -> str:
    """One line that says what was tested on what."""
    model, data = result.model, result.data
    place = f"{data.path or 'dialogues'}{f' [{data.split}]' if data.split else ''}"
    name = f"{model.adapter or 'model'} on {model.base}, K = {model.prompts}, L = {model.prompt_length}"
    return f"{name}: {place}, {data.dialogues} dialogues, {data.turns} turns"


def tables(result: RobustnessResult) -> list[TextTable]:
    """What moved, for a terminal: choices, then the metrics."""
    made = []
    if choices := _choices(result):
        made.append(TextTable("Choice of prompt", ("", *_CHOICE_COLUMNS), tuple(choices)))
    if metrics := _metrics(result):
        rows = [(one.name, *(_difference(one.metrics[name]) for name in metrics)) for one in result.conditions]
        title = "Difference from the clean input, with 95% interval"
        made.append(TextTable(title, ("", *(LABELS[name] for name in metrics)), (_clean(result), *rows)))
    return made


def write_report(folder: Path, result: RobustnessResult) -> None:
    """Write `report.md` and `plots/robustness.png`.

    Raises:
        StorageError: they cannot be written.
    """
    from sptune.experiments.robustness.plot import plot_movements
    from sptune.report.plots.style import LIGHT, save_png

    figure = plot_movements(result.conditions, theme=LIGHT)
    if figure:
        save_png(figure, folder / PLOTS_NAME / f"{PLOT_NAME}.png")
    width = figure.get_figwidth() if figure else None
    write_text(folder / REPORT_NAME, to_markdown(make_document(result, width)))


def make_document(result: RobustnessResult, plot_width: float | None = None) -> Document:
    """What the report says; with the plot where its width is given."""
    rough = rough_intervals(result.data.dialogues)
    plot = Plot(
        PLOT_NAME,
        "What each disturbance moves",
        "Bars: share of turns that get another prompt. Dots: difference of the metric from the clean input, with its 95% "
        "interval (paired bootstrap by dialogue).",
        plot_width or 0.0,
    )
    sections = [
        Section("In short", (Bullets(tuple(sentences(result))), *([Warnings((rough,))] if rough else []))),
        Section("What moves", (*((plot,) if plot_width else ()), *_report_tables(result))),
        Section("The conditions", (_meanings(result),)),
    ]
    return Document("Robustness", caption(result), tuple(section for section in sections if section.blocks))


def sentences(result: RobustnessResult) -> Iterator[str]:
    """The main findings in plain words."""
    chosen = [one for one in result.conditions if one.choice]
    if chosen:
        yield _most_and_least(chosen)
        shares = ", ".join(f"{share:.0%}" for share in result.usage)
        yield f"On the clean input the prompts are chosen for {shares} of the turns."
    scored = [one for one in result.conditions if "perplexity" in one.metrics]
    if scored:
        worst = max(scored, key=lambda one: one.metrics["perplexity"].difference)
        moved, kept = worst.metrics["perplexity"], worst.metrics[KEPT]
        if moved.difference < _SMALLEST:
            yield f"No disturbance raises perplexity, {moved.clean:.2f} on the clean input."
            return
        said = f"Perplexity is worst under {worst.name}: {moved.disturbed:.2f}, against {moved.clean:.2f} of the clean input"
        yield (
            f"{said}; with the prompts that the clean input chose it would be {kept.disturbed:.2f}."
            if chosen
            else f"{said}."
        )


def _most_and_least(chosen: list[Condition]) -> str:
    shares = {one.name: one.choice.changed for one in chosen if one.choice}
    most, least = (pick(chosen, key=lambda one: shares[one.name]) for pick in (max, min))
    if not shares[most.name]:
        return "No disturbance moves the choice of prompt, on any turn."
    if shares[most.name] == shares[least.name]:
        return f"Another prompt is chosen under {', '.join(shares)} ({shares[most.name]:.1%} of the turns)."
    return f"The choice of prompt moves most under {_changed(most)}, least under {_changed(least)}."


def _changed(one: Condition) -> str:
    return f"{one.name} ({one.choice.changed:.1%} of the turns)" if one.choice else one.name


_CHOICE_COLUMNS = ("other prompt, % of turns", "total variation", "cosine", "usage, %")


def _choices(result: RobustnessResult) -> list[tuple[str, ...]]:
    """The clean input's usage, and what each condition moves; none where K = 1."""
    moved = [_choice_cells(one) for one in result.conditions if one.choice]
    return [(_CLEAN, *["–"] * (len(_CHOICE_COLUMNS) - 1), _usage(result.usage)), *moved] if moved else []


def _usage(shares: tuple[float, ...]) -> str:
    return " ".join(f"{100 * share:.0f}" for share in shares)


def _choice_cells(one: Condition) -> tuple[str, ...]:
    moved = one.choice
    assert moved
    return (
        one.name,
        f"{100 * moved.changed:.1f}",
        f"{moved.total_variation:.4f}",
        f"{moved.cosine:.4f}",
        _usage(moved.usage),
    )


def _metrics(result: RobustnessResult) -> list[str]:
    return list(result.conditions[0].metrics) if result.conditions else []


def _clean(result: RobustnessResult) -> tuple[str, ...]:
    """What the differences are from."""
    return _CLEAN, *(f"{moved.clean:.2f}" for moved in result.conditions[0].metrics.values())


def _report_tables(result: RobustnessResult) -> Iterator[Paragraph | Table]:
    if choices := [table_row(*cells) for cells in _choices(result)]:
        yield Paragraph(
            "Total variation is that of the softmax of the scores (0 to 1), cosine that of the score vectors; both are means over turns."
        )
        yield Table(("condition", *_CHOICE_COLUMNS), tuple(choices))
    if metrics := _metrics(result):
        yield Paragraph("Differences from the clean input, with 95% intervals by paired bootstrap over dialogues:")
        rows = (
            Row((Cell(one.name), *(_cell(name, one.metrics[name]) for name in metrics))) for one in result.conditions
        )
        yield Table(("condition", *(LABELS[name] for name in metrics)), (table_row(*_clean(result)), *rows))


def _cell(name: str, moved: MetricMovement) -> Cell:
    """A difference whose interval leaves out zero is good or bad news."""
    interval = f"{moved.low:+z.2f}, {moved.high:+z.2f}"
    sure, better = moved.low * moved.high > 0 and abs(moved.difference) >= _SMALLEST, _BETTER.get(name, "")
    if not sure or better not in ("lower", "higher"):
        return Cell(f"{moved.difference:+z.2f}", detail=interval)
    good = (moved.difference < 0) == (better == "lower")
    return Cell(f"{moved.difference:+z.2f}", "better" if good else "worse", interval)


def _difference(moved: MetricMovement) -> str:
    return f"{moved.difference:+z.2f} [{moved.low:+z.2f}, {moved.high:+z.2f}]"


def _meanings(result: RobustnessResult) -> Table:
    return Table(("name", "what it does"), tuple(table_row(one.name, one.meaning) for one in result.conditions), True)
