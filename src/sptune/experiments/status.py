"""How far a comparison is, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sptune.evaluation.table import Table
from sptune.experiments.claim import owner
from sptune.experiments.display import clock
from sptune.experiments.plan import Plan
from sptune.experiments.record import read_record
from sptune.experiments.state import read_state
from sptune.experiments.tasks import Task, list_tasks
from sptune.experiments.trials import tried


def status_tables(comparison: Path, plan: Plan) -> list[Table]:
    """The cells, and the trials of learning rates where there are any.

    Args:
        comparison: folder of the comparison.
        plan: of the comparison.
    """
    tasks = list_tasks(comparison, plan)
    cells = [task for task in tasks if task.rate is None]
    rows = tuple(_cell_row(task) for task in cells)
    done = sum(task.outcome() == "done" for task in cells)
    columns = ("method", "seed", "status", "rate", "perplexity", "time")
    tables = [Table(f"Cells, {done} of {len(cells)} done", columns, rows)]
    trials = tuple(_trial_rows(tasks))
    if trials:
        tables.append(
            Table("Learning rates, validation perplexity", ("method", "tried", "best"), trials, in_words=True)
        )
    return tables


def _cell_row(task: Task) -> tuple[str, ...]:
    record, state = read_record(task.folder), read_state(task.folder)
    rate = "" if record is None or record.learning_rate is None else f"{record.learning_rate:g}"
    perplexity = task.perplexity()
    seconds = state.train_seconds + state.evaluate_seconds
    return (
        task.cell.label,
        str(task.cell.seed),
        _status(task),
        rate,
        "" if perplexity is None else f"{perplexity:.2f}",
        clock(seconds) if seconds else "",
    )


def _status(task: Task) -> str:
    """How a task stands: in words, with what its process is doing, what the comparison asks for beyond what was done, or why it failed."""
    status = task.status()
    record = read_record(task.folder) if task.rate is None else None
    if status == "running":
        state = read_state(task.folder)
        part = f"{state.part} {state.done}/{state.total}" if state.part else "begun"
        return f"{part} ({owner(task.folder)})"
    if status == "failed":
        reason = (record.error or "").split("\n")[0] if record else ""
        return f"failed: {reason}" if reason else "failed"
    if status == "waiting" and record:  # it was done, and the comparison has grown
        return f"trained; to measure: {', '.join(record.missing(task.cell))}"
    if status == "waiting" and (task.folder / "state.json").exists():
        return "stopped"
    return status


def _trial_rows(tasks: Sequence[Task]) -> Iterator[tuple[str, ...]]:
    first = {task.cell.label: task for task in tasks if task.rate is not None}
    for label, task in first.items():
        found = tried(task.comparison, task.cell)
        listed = [f"{rate:g}: {_figure(found, rate)}" for rate in task.cell.settings.rates]
        yield label, ", ".join(listed), _best(found, task.cell.settings.rates)


def _figure(found: dict[float, float | None], rate: float) -> str:
    if rate not in found:
        return "-"
    value = found[rate]
    return "failed" if value is None else f"{value:.2f}"


def _best(found: dict[float, float | None], rates: Sequence[float]) -> str:
    """The best rate; one at the end of those tried may have a better one beyond it."""
    known = {rate: value for rate, value in found.items() if value is not None}
    if not known:
        return ""
    best = min(known, key=known.__getitem__)
    end = "lowest" if best == min(rates) else "highest" if best == max(rates) else ""
    return f"{best:g}{f', the {end} tried' if end else ''}"
