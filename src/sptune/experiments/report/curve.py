"""Validation perplexity in the course of training, against the tokens trained on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from sptune.baselines.method import FIRST
from sptune.training.metrics_log import read_metrics

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Curve:
    """Steps of validation, as many numbers of tokens trained on until then, and as many perplexities."""

    steps: tuple[int, ...] = ()
    tokens: tuple[float, ...] = ()
    perplexity: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)


def read_curve(run: Path, notes: list[str]) -> Curve:
    """The curve in the `metrics.jsonl` of a run, behind that of a model that was trained before it; empty where it has none.

    What cannot be read goes to `notes`.
    """
    path, first = run / METRICS_NAME, run / FIRST / METRICS_NAME
    records: list[dict[str, Any]] = []
    try:
        for part in (first, path):
            last = max((record["step"] for record in records), default=0)
            read = read_metrics(part) if part.exists() else []
            records += [{**record, "step": last + record["step"]} for record in read if "step" in record]
        return make_curve(records)
    except (OSError, TypeError, ValueError):
        notes.append(f"{'/'.join(path.parts[-4:])} cannot be read: that cell has no learning curve.")
        return Curve()


def make_curve(records: list[dict[str, Any]]) -> Curve:
    """The curve of the records of a training, in any order.

    >>> make_curve([{"kind": "train", "step": 1, "tokens": 50}, {"kind": "validation", "step": 1, "perplexity": 9.0}])
    Curve(steps=(1,), tokens=(50.0,), perplexity=(9.0,))
    """
    trained = sorted((r["step"], float(r["tokens"])) for r in records if r.get("kind") == "train" and r.get("tokens"))
    sums = list(accumulate(tokens for _, tokens in trained))
    points = sorted(
        (r["step"], float(r["perplexity"])) for r in records if r.get("kind") == "validation" and r.get("perplexity")
    )
    return Curve(
        tuple(step for step, _ in points),
        tuple(_until(step, trained, sums) for step, _ in points),
        tuple(value for _, value in points),
    )


def _until(step: int, trained: list[tuple[int, float]], sums: list[float]) -> float:
    count = sum(at <= step for at, _ in trained)
    return sums[count - 1] if count else 0.0
