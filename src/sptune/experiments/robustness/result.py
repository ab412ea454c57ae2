"""What a robustness test found, as in `robustness.json` (docs/robustness.md)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from sptune import __version__
from sptune.evaluation.result import DataInfo, ModelInfo
from sptune.experiments.robustness.movement import ChoiceMovement, MetricMovement

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Condition:
    """One way to disturb, and what it moved.

    Attributes:
        name: of the perturbation, or `noise-D`.
        meaning: what it does, in words.
        choice: how far choices and scores moved; None where K = 1.
        metrics: metric -> how far it moved.
        seconds: that it took.
    """

    name: str
    meaning: str
    choice: ChoiceMovement | None
    metrics: dict[str, MetricMovement]
    seconds: float


@dataclass(frozen=True, slots=True)
class RobustnessResult:
    """Everything that a robustness test found.

    Attributes:
        model: which model.
        data: on what.
        settings: how: the fields of `run.Settings`.
        usage: K shares of turns that chose each prompt, of the clean input.
        conditions: in the order they were asked for.
        schema_version: of `robustness.json`.
        sptune_version: that wrote it.
    """

    model: ModelInfo
    data: DataInfo
    settings: dict[str, Any]
    usage: tuple[float, ...]
    conditions: tuple[Condition, ...]
    schema_version: int = SCHEMA_VERSION
    sptune_version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return record
