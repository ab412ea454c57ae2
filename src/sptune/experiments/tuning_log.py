"""`tuning.jsonl`: one line for each learning rate that a comparison has tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sptune.experiments.folders import TUNING_NAME


class Trial(BaseModel):
    """A line of `tuning.jsonl`. A perplexity that is not finite is None."""

    model_config = ConfigDict(frozen=True)

    method: str
    learning_rate: float
    perplexity: float | None = None
    setting: dict[str, Any] = {}
    seconds: float | None = None
    seed: int = 0
    dialogues: int | None = None


def read_trials(folder: Path, notes: list[str]) -> tuple[Trial, ...]:
    """The trials of a comparison; lines that cannot be read are counted in `notes`."""
    path = folder / TUNING_NAME
    if not path.exists():
        return ()
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    trials = [trial for line in lines if (trial := _parse(line))]
    if len(trials) < len(lines):
        notes.append(f"{len(lines) - len(trials)} line(s) of {TUNING_NAME} are damaged, and were left out.")
    return tuple(trials)


def _parse(line: str) -> Trial | None:
    try:
        return Trial.model_validate_json(line)
    except ValidationError:
        return None
