"""One cell of a comparison: a method with one setting and one seed, as its folder tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sptune.config.compare import CONTROLS, TOP1
from sptune.errors import SptError
from sptune.evaluation.generation import Generation
from sptune.evaluation.records import read_records
from sptune.evaluation.result import GENERATIONS_NAME, RESULT_NAME, TURNS_NAME, TurnRecord, load_result
from sptune.experiments.folders import CELL_NAME, EVALUATION, PROBE_NAME, RUN
from sptune.experiments.report.curve import Curve, read_curve
from sptune.experiments.report.own_likelihood import with_own_likelihood
from sptune.report.run_folder import Evaluated

DONE = "done"

Found = TypeVar("Found")


class CellRecord(BaseModel):
    """What the report reads of `cell.json`."""

    model_config = ConfigDict(frozen=True)

    method: str
    seed: int
    status: str
    kind: str = ""
    label: str = ""
    setting: dict[str, Any] = {}
    learning_rate: float | None = None
    error: str | None = None
    evaluations: dict[str, list[str]] = {}
    trainable_parameters: int | None = None
    train_seconds: float | None = None
    evaluate_seconds: float | None = None
    peak_memory_bytes: int | None = None
    train_peak_memory_bytes: int | None = None
    train_tokens: int | None = None
    versions: dict[str, str] = {}
    machine: Any = None


class ProbePicks(BaseModel):
    """The prompts that an offline probe picked for the test turns, and the perplexity under them."""

    model_config = ConfigDict(frozen=True)

    perplexity: float
    picks: tuple[int, ...] = ()


class KeptProbe(BaseModel):
    """What the report reads of `probe.json`: probes that read the hidden state, and the mean word embedding."""

    model_config = ConfigDict(frozen=True)

    hidden: ProbePicks
    embedding: ProbePicks | None = None


@dataclass(frozen=True, slots=True)
class KeptCell:
    """A cell of which the folder says something.

    Attributes:
        label: the method's name and the setting, as the folder is called.
        record: `cell.json`.
        evaluations: decoding -> evaluation, top-1 first. Those of the controls have no turns and replies.
        curve: validation perplexity in the course of training.
        probe: choices of prompts that an offline probe makes; None where there is none.
        decoding: the one that it is shown under.
    """

    label: str
    record: CellRecord
    evaluations: dict[str, Evaluated]
    curve: Curve
    probe: KeptProbe | None
    decoding: str = TOP1

    @property
    def main(self) -> Evaluated | None:
        """The evaluation that it is shown by."""
        return self.evaluations.get(self.decoding)

    @property
    def further(self) -> tuple[str, ...]:
        """The decodings beside top-1 whose replies were measured, controls aside."""
        known = [name for name, one in self.evaluations.items() if one.result.metrics]
        return tuple(name for name in known if name not in (TOP1, *CONTROLS))

    @property
    def complete(self) -> bool:
        """Whether it can stand in the tables: also where it was done, and failed in a decoding that was asked for later."""
        return (self.record.status == DONE or TOP1 in self.record.evaluations) and self.main is not None


def read_cell(folder: Path, notes: list[str]) -> KeptCell | None:
    """The cell in `folder`, `LABEL/seed-N`; None where it is not finished. What is damaged goes to `notes`."""
    record = _attempt(lambda: _record(folder / CELL_NAME), notes) if (folder / CELL_NAME).exists() else None
    if record is None:
        return None
    names = sorted(path.parent.name for path in (folder / EVALUATION).glob(f"*/{RESULT_NAME}"))
    found = {name: _evaluated(folder / EVALUATION / name, notes) for name in sorted(names, key=TOP1.__ne__)}
    return KeptCell(
        label=folder.parent.name,
        record=record,
        evaluations={name: one for name, one in found.items() if one},
        curve=read_curve(folder / RUN, notes),
        probe=_probe(folder / PROBE_NAME, notes),
    )


def _record(path: Path) -> CellRecord:
    try:
        return CellRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SptError(f"{_short(path)} cannot be read, and its cell was left out") from error


def _evaluated(folder: Path, notes: list[str]) -> Evaluated | None:
    """An evaluation with its turns and replies, where these are not missing or damaged; those of controls are not needed."""
    found = _attempt(lambda: load_result(folder), notes)
    result = with_own_likelihood(found, folder.name) if found else None
    if result is None or folder.name in CONTROLS:
        return Evaluated(folder.name, result, (), ()) if result else None
    turns = _lines(folder / TURNS_NAME, TurnRecord, notes)
    generations = _lines(folder / GENERATIONS_NAME, Generation, notes)
    return Evaluated(folder.name, result, tuple(turns), tuple(generations))


def _lines(path: Path, kind: type[Found], notes: list[str]) -> Sequence[Found]:
    found = _attempt(lambda: read_records(path, kind), notes) if path.exists() else None
    return found or ()


def _probe(path: Path, notes: list[str]) -> KeptProbe | None:
    if not path.exists():
        return None
    try:
        return KeptProbe.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        notes.append(f"{_short(path)} cannot be read: there is no offline probe for that cell.")
        return None


def _attempt(read: Callable[[], Found], notes: list[str]) -> Found | None:
    """What `read` returns; where it cannot, None, and a note that says why."""
    try:
        return read()
    except SptError as error:
        notes.append(f"{error}.")
        return None


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])
