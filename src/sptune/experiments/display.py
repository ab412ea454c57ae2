"""What a running comparison shows: bars with the time that is left on a terminal, a line for each task elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sptune.experiments.folders import LOG_NAME
from sptune.experiments.record import read_record
from sptune.experiments.state import read_state
from sptune.experiments.tasks import Key, Task


class GridDisplay:
    """Shows a grid.

    Args:
        tasks: all tasks of the comparison, finished ones included: their times tell how long others will take.
        jobs: how many run at once.
        console: where to; standard error where None.
    """

    def __init__(self, tasks: Sequence[Task], *, jobs: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._jobs = jobs
        self._total = len(tasks)
        self._over = {task.key for task in tasks if task.outcome() is not None}
        self._times = TaskTimes(tasks)
        self._begun: dict[Key, float] = {}
        self._left = ""
        self._bars: Progress | None = None
        self._rows: dict[Key, TaskID] = {}
        self._waits = False

    def __enter__(self) -> GridDisplay:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console)
            self._all = self._bars.add_task("all", total=self._total, completed=len(self._over), note="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None

    def started(self, task: Task) -> None:
        """Say that a task was begun."""
        self._over.discard(task.key)
        self._begun[task.key] = time.monotonic()
        if self._bars:
            self._rows[task.key] = self._bars.add_task(task.name, total=None, note="")
        else:
            self._print(f"{task.name}: begun")

    def ended(self, task: Task, seconds: float | None) -> None:
        """Say how a task ended."""
        outcome = task.outcome()
        self._begun.pop(task.key, None)
        if outcome:
            self._over.add(task.key)
        if outcome == "done":
            self._times.add(task, seconds)
        if self._bars and task.key in self._rows:
            self._bars.remove_task(self._rows.pop(task.key))
        where = " by another process" if seconds is None else f" after {clock(seconds)}"
        left = f"; {self._left}" if self._left else ""
        self._print(
            f"[{len(self._over)}/{self._total}] {task.name}: {outcome or 'stopped'}{where}{_result(task)}{left}"
        )

    def tick(self, running: Sequence[Task], waiting: Sequence[Task]) -> None:
        """Estimate the time that is left, and move the bars."""
        now = time.monotonic()
        spent = {task.key: now - self._begun.get(task.key, now) for task in running}
        seconds, unknown = self._times.left(running, waiting, spent=spent, jobs=self._jobs)
        self._left = _in_words(seconds, unknown)
        if waiting and not running and not self._waits:
            self._print(f"waiting for what other processes run; see `sptune compare status {waiting[0].comparison}`")
        self._waits = not running
        if not self._bars:
            return
        for task in running:
            state = read_state(task.folder)
            if task.key in self._rows:
                row = self._rows[task.key]
                self._bars.update(row, completed=state.done, total=state.total or None, note=state.part)
        self._bars.update(self._all, completed=len(self._over), note=self._left)

    def stopping(self) -> None:
        """Say that the processes are told to stop."""
        self._print("stopping: what is running keeps its state; press Ctrl-C again to stop at once")

    def _print(self, text: str) -> None:
        (self._bars.console if self._bars else self._console).print(text, markup=False, soft_wrap=True)


class TaskTimes:
    """How long tasks take, from those that are done.

    Args:
        tasks: of the comparison.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._seconds: dict[tuple[str, bool], list[float]] = defaultdict(list)
        for task in tasks:
            if task.outcome() == "done":
                self.add(task)

    def add(self, task: Task, seconds: float | None = None) -> None:
        """Take up a task that is done; where its time is not given, it is that of training and evaluation."""
        state = read_state(task.folder)
        self._seconds[_kind(task)].append(seconds or state.train_seconds + state.evaluate_seconds)

    def left(
        self, running: Sequence[Task], waiting: Sequence[Task], *, spent: dict[Key, float], jobs: int
    ) -> tuple[float, int]:
        """Seconds that are left for tasks of methods and settings of which one was done, and how many others there are.

        Other methods tell nothing of these: K prompts take several times as long as one, and zero-shot trains nothing.
        """
        known = {task.key: own for task in (*running, *waiting) if (own := self._seconds.get(_kind(task)))}
        seconds = sum(max(0.0, sum(own) / len(own) - spent.get(key, 0.0)) for key, own in known.items())
        return seconds / jobs, len(running) + len(waiting) - len(known)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(61.2), clock(7384)
    ('1:01', '2:03:04')
    """
    whole = round(seconds)
    minutes = f"{whole // 60 % 60}:{whole % 60:02d}"
    return minutes if whole < 3600 else f"{whole // 3600}:{minutes:0>5}"


def _in_words(seconds: float, unknown: int) -> str:
    """The time that is left, as far as it is known.

    >>> _in_words(61.0, 0), _in_words(61.0, 2), _in_words(0.0, 2)
    ('about 1:01 left', 'about 1:01 left, and 2 tasks of unknown length', '')
    """
    if not unknown:
        return f"about {clock(seconds)} left"
    return f"about {clock(seconds)} left, and {unknown} task{'s' * (unknown > 1)} of unknown length" if seconds else ""


def _kind(task: Task) -> tuple[str, bool]:
    return task.cell.label, task.rate is not None


def _result(task: Task) -> str:
    """What a task found, or why it failed."""
    if task.outcome() == "failed":
        record = read_record(task.folder) if task.rate is None else None
        reason = (record.error or "").split("\n")[0] if record else ""
        return f"{f': {reason}' if reason else ''} (see {task.folder / LOG_NAME})"
    perplexity = task.perplexity()
    return "" if perplexity is None else f", perplexity {perplexity:.2f}"
