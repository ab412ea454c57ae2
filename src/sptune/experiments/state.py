"""How far a cell is: kept beside it, so that other processes can see it and a killed one loses no time that was measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from sptune.experiments.memory import peak_bytes
from sptune.files import write_json

STATE_NAME = "state.json"
INTERVAL = 2.0  # seconds between two writes

Phase = Literal["train_seconds", "evaluate_seconds"]


@dataclass(frozen=True, slots=True)
class State:
    """How far a cell is.

    Attributes:
        starts: processes that worked on it.
        train_seconds: of all processes together; of one that was killed, up to its last write.
        evaluate_seconds: likewise.
        train_peak_bytes: the most memory until training had ended.
        peak_bytes: the most memory.
        part: what is being done.
        done: how much of it.
        total: of how much.
    """

    starts: int = 0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    train_peak_bytes: int = 0
    peak_bytes: int = 0
    part: str = ""
    done: int = 0
    total: int = 0


class StateFile:
    """The `state.json` of a cell that this process works on.

    Args:
        folder: of the cell.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_NAME
        before = read_state(folder)
        self.state = replace(before, starts=before.starts + 1, part="", done=0, total=0)
        self._phase: tuple[Phase, float, float] | None = None  # name, seconds before, clock at its begin
        self._written = 0.0

    def show(self, part: str, done: int, total: int) -> None:
        """Note the progress; a `Progress` for training and evaluation."""
        self.state = replace(self.state, part=part, done=done, total=total)
        if time.monotonic() - self._written >= INTERVAL:
            self.save()

    @contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Add the time that this lasts to `phase`, also where it ends in an error."""
        self._phase = (phase, getattr(self.state, phase), time.monotonic())
        try:
            yield
        finally:
            self.save()
            self._phase = None

    def trained(self) -> None:
        """Note the memory that was used until training had ended."""
        self.state = replace(self.state, train_peak_bytes=max(self.state.train_peak_bytes, peak_bytes()))
        self.save()

    def save(self) -> None:
        """Write the file, times and memory up to now included."""
        now: dict[str, Any] = {"peak_bytes": max(self.state.peak_bytes, peak_bytes())}
        if self._phase:
            phase, before, begin = self._phase
            now[phase] = round(before + time.monotonic() - begin, 3)
        self.state = replace(self.state, **now)
        write_json(self._path, asdict(self.state))
        self._written = time.monotonic()


def read_state(folder: Path) -> State:
    """How far the cell in `folder` is; a new one where that is not known."""
    try:
        return TypeAdapter(State).validate_json((folder / STATE_NAME).read_bytes())
    except (OSError, ValidationError):
        return State()
