"""Where things are in a comparison's folder."""

from __future__ import annotations

from pathlib import Path

CELLS, TUNING = "cells", "tuning"
RUN, EVALUATION = "run", "evaluation"
UNFINISHED = "unfinished"  # evaluations that are at work
CELL_NAME, LOG_NAME, PROBE_NAME, TUNING_NAME = "cell.json", "log.txt", "probe.json", "tuning.jsonl"
FIT_TURNS_NAME = "{}-turns.jsonl"  # turns of validation or training, for the best single prompt and the probe


def cell_folder(folder: Path, label: str, seed: int) -> Path:
    """The folder of a cell."""
    return folder / CELLS / label / f"seed-{seed}"


def trial_folder(folder: Path, label: str, rate: float) -> Path:
    """The folder of a trial of a learning rate."""
    return folder / TUNING / label / f"rate-{rate:g}"
