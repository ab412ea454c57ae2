"""Runs the tasks of a comparison, each in a process of its own, several at once. Any number of grids may share one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sptune.config import TuningSettings
from sptune.experiments.claim import claimed, owner
from sptune.experiments.folders import LOG_NAME
from sptune.experiments.tasks import Task, is_ready, to_retry
from sptune.files import storage_errors

DONE, FAILED, TAKEN, STOPPED = 0, 1, 75, 130  # how the process of a task exits; TAKEN: another one holds or did it
INTERVAL = 0.5  # seconds between two looks at the processes
LAST_LINES = 12


class Display(Protocol):
    """Shows a grid."""

    def started(self, task: Task) -> None:
        """A task was begun."""

    def ended(self, task: Task, seconds: float | None) -> None:
        """A task ended; after so many seconds, or None where another grid ran it."""

    def tick(self, running: Sequence[Task], waiting: Sequence[Task]) -> None:
        """Time has passed."""

    def stopping(self) -> None:
        """The grid waits for its processes to stop."""


@dataclass(frozen=True, slots=True)
class _Child:
    task: Task
    process: subprocess.Popen[bytes]
    begin: float


class Grid:
    """The tasks of a comparison that are still to be done.

    Args:
        tasks: in the order in which they are to be done; trials before the cells that need them.
        tuning: of the comparison.
        jobs: how many run at once; the cores are shared out among them.
        display: shows them.
        retry: do failed ones once more.
        limit: do at most that many cells, and their trials.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        tuning: TuningSettings,
        jobs: int,
        display: Display,
        retry: bool = False,
        limit: int | None = None,
    ) -> None:
        self._tuning = tuning
        self._jobs = jobs
        self._display = display
        self._again = {task.key for task in to_retry(tasks)} if retry else set()
        self.waiting = _limited([task for task in tasks if not self._is_over(task)], limit)
        self._children: list[_Child] = []

    def run(self) -> None:
        """Do all tasks, or see them done by other grids.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the processes have stopped, and their state is kept.
        """
        try:
            while self.waiting or self._children:
                self._reap()
                self._begin()
                self._display.tick([child.task for child in self._children], self.waiting)
                if self.waiting or self._children:
                    time.sleep(INTERVAL)
        finally:
            self._stop()

    def _is_over(self, task: Task) -> bool:
        outcome = task.outcome()
        return outcome == "done" or (outcome == "failed" and task.key not in self._again)

    def _begin(self) -> None:
        """Start what may be started."""
        for task in list(self.waiting):
            if len(self._children) >= self._jobs:
                return
            if self._is_over(task):
                self.waiting.remove(task)
                self._display.ended(task, None)
            elif not self._is_tuned(task) and is_ready(task) and not owner(task.folder):
                self.waiting.remove(task)
                command = command_of(task, retry=task.key in self._again)
                process = _start(command, task.folder, jobs=self._jobs)
                self._children.append(_Child(task, process, time.monotonic()))
                self._display.started(task)

    def _is_tuned(self, task: Task) -> bool:
        """Whether a cell's learning rate is still being tried: again, where a trial had failed."""
        left = (*self.waiting, *(child.task for child in self._children))
        return task.rate is None and any(one.rate is not None and one.cell.label == task.cell.label for one in left)

    def _reap(self) -> None:
        """See to processes that ended."""
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            self._children.remove(child)
            if code == TAKEN:
                self.waiting.append(child.task)
                continue
            if code not in (DONE, FAILED) or child.task.outcome() is None:
                self._record_crash(child.task, code)
            self._display.ended(child.task, time.monotonic() - child.begin)

    def _record_crash(self, task: Task, code: int) -> None:
        """A process that was stopped from outside, killed, or broke down leaves no record of its own."""
        with claimed(task.folder) as held:
            if held:
                task.fail(f"{_describe(code)}\n{_last_lines(task.folder / LOG_NAME)}".strip(), tuning=self._tuning)

    def _stop(self) -> None:
        """Let the processes keep their state and end; a second Ctrl-C ends them at once."""
        if not self._children:
            return
        self._display.stopping()
        try:
            for child in self._children:
                child.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe, which breaks now
            for child in self._children:
                child.process.wait()
        except KeyboardInterrupt:
            for child in self._children:
                child.process.kill()
            raise


def threads(jobs: int) -> int:
    """Threads of each of `jobs` processes: `OMP_NUM_THREADS`, or the cores of this machine, shared out."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (int(given) if given.isdecimal() else cores) // jobs)


def command_of(task: Task, *, retry: bool) -> list[str]:
    """The command line of a task's process; with `retry` it also does what has failed."""
    again = ["--retry"] if retry else []
    return [sys.executable, "-m", "sptune.cli.main", "compare", "task", *task.arguments, *again]


def _limited(tasks: list[Task], limit: int | None) -> list[Task]:
    cells = [task for task in tasks if task.rate is None][:limit]
    kept, labels = {task.key for task in cells}, {task.cell.label for task in cells}
    return [task for task in tasks if task.key in kept or (task.rate is not None and task.cell.label in labels)]


def _start(command: list[str], folder: Path, *, jobs: int) -> subprocess.Popen[bytes]:
    """Start the process of a task, with a log in its folder.

    It is in a session of its own, so that Ctrl-C does not reach it. It stops when the pipe to it breaks: when this process closes it,
    or dies.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads(jobs)), "TOKENIZERS_PARALLELISM": "false"}
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG_NAME).open("ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _describe(code: int) -> str:
    if code in (STOPPED, -signal.SIGINT):
        return "the process was stopped from outside"
    if code >= 0:
        return f"the process broke down (exit code {code})"
    name = signal.Signals(-code).name
    return f"the process was ended by {name}{', perhaps for want of memory' if name == 'SIGKILL' else ''}"


def _last_lines(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-LAST_LINES:])
