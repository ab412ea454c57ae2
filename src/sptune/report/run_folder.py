"""Everything that a run folder keeps, read with patience: what is missing or damaged is noted, the rest counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from sptune.config import Recipe, load_recipe
from sptune.errors import DataError, SptError
from sptune.evaluation.generation import Generation
from sptune.evaluation.records import read_records
from sptune.evaluation.result import (
    GENERATIONS_NAME,
    RESULT_NAME,
    TURNS_NAME,
    EvaluationResult,
    TurnRecord,
    load_result,
)
from sptune.report.run_info import RUN_INFO_NAME, RunInfo, load_run_info
from sptune.training.metrics_log import read_metrics

RECIPE_NAME, METRICS_NAME, ADAPTER_NAME, EVALUATION_NAME = "recipe.yaml", "metrics.jsonl", "adapter", "evaluation"
MAIN, BARE = "spt", "base"  # names of the evaluations of the trained adapter and of the bare model

Found = TypeVar("Found")
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation of the run: its figures, its turns and its replies; the latter two may be empty."""

    name: str
    result: EvaluationResult
    turns: tuple[TurnRecord, ...]
    generations: tuple[Generation, ...]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run as its files tell it.

    Attributes:
        folder: where it is.
        recipe: the resolved recipe; None where it is missing or cannot be read.
        recipe_text: the recipe's file, as it is.
        train: records of kind `train`, in the order of steps.
        validation: records of kind `validation`, likewise.
        evaluations: name -> evaluation: the bare model first, then the adapter, then others by name.
        similarity: K x K cosine similarities of the kept prompts; None where not known.
        finished: whether there is an adapter.
        info: when, where and with what it was trained.
        notes: what is missing or damaged, and how to get it.
    """

    folder: Path
    recipe: Recipe | None
    recipe_text: str
    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    evaluations: dict[str, Evaluated]
    similarity: tuple[tuple[float, ...], ...] | None
    finished: bool
    info: RunInfo | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return self.recipe.name if self.recipe else self.folder.resolve().name

    @property
    def main(self) -> Evaluated | None:
        """The evaluation of the trained adapter."""
        return self.evaluations.get(MAIN)

    @property
    def bare(self) -> Evaluated | None:
        """The evaluation of the bare model."""
        return self.evaluations.get(BARE)

    @property
    def prompts(self) -> int | None:
        """K."""
        if self.recipe:
            return self.recipe.prompts.count
        if self.main and self.main.result.model:
            return self.main.result.model.prompts
        return next((len(record["usage"]) for record in self.train if "usage" in record), None)

    @property
    def kept(self) -> Record | None:
        """The validation record of the adapter that is kept: the first of the best by the recipe's metric, once the prompts have parted."""
        metric = self.recipe.training.metric if self.recipe else "perplexity"
        known = [record for record in self.validation if metric in record and record.get("parted", True)]
        return min(known, key=lambda record: float(record[metric]), default=None)


def read_run(folder: str | Path) -> RunFolder:
    """Read a run folder.

    Raises:
        DataError: there is no such folder, or nothing of a run in it.
    """
    place = Path(folder)
    if not any((place / name).exists() for name in (RECIPE_NAME, METRICS_NAME, EVALUATION_NAME)):
        raise DataError(
            f"{place}: holds no run (no {RECIPE_NAME}, {METRICS_NAME} or {EVALUATION_NAME}/); "
            "give a folder that `sptune train` wrote, such as runs/quickstart"
        )
    notes: list[str] = []
    recipe = _attempt(lambda: load_recipe(place / RECIPE_NAME), notes) if (place / RECIPE_NAME).exists() else None
    if not (place / RECIPE_NAME).exists():
        notes.append(f"{RECIPE_NAME} is missing, so this report cannot say with which settings the run was made.")
    records = _read_records(place, notes)
    finished = (place / ADAPTER_NAME).is_dir()
    run = RunFolder(
        folder=place,
        recipe=recipe,
        recipe_text=_text(place / RECIPE_NAME),
        train=tuple(record for record in records if record["kind"] == "train"),
        validation=tuple(record for record in records if record["kind"] == "validation"),
        evaluations=_read_evaluations(place, notes),
        similarity=_similarity(place / ADAPTER_NAME, records),
        finished=finished,
        info=_attempt(lambda: load_run_info(place), notes) if (place / RUN_INFO_NAME).exists() else None,
        notes=(),
    )
    return replace(run, notes=(*notes, *_missing(run)))


def _attempt(read: Callable[[], Found], notes: list[str]) -> Found | None:
    """What `read` returns; where it cannot, None, and a note that says why."""
    try:
        return read()
    except SptError as error:
        notes.append(str(error))
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_records(place: Path, notes: list[str]) -> list[Record]:
    path = place / METRICS_NAME
    if not path.exists():
        notes.append(f"{METRICS_NAME} is missing: there is nothing to say about the training itself.")
        return []
    try:
        found = read_metrics(path)
        lines = sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{METRICS_NAME} cannot be read ({error}): there is nothing to say about the training itself.")
        return []
    records = [record for line in found if (record := _checked(line))]
    if len(records) < lines:
        notes.append(f"{lines - len(records)} line(s) of {METRICS_NAME} are cut short or damaged, and were left out.")
    return sorted(records, key=lambda record: record["step"])


class _MetricsRecord(BaseModel):
    """What the report reads of a line of `metrics.jsonl`."""

    kind: Literal["train", "validation"]
    step: int
    epoch: float | None = None
    tokens: float | None = None
    examples: float | None = None
    total: float | None = None
    llm: float | None = None
    selection: float | None = None
    contrastive: float | None = None
    fusion: float | None = None
    loss: float | None = None
    perplexity: float | None = None
    fused_perplexity: float | None = None
    oracle_perplexity: float | None = None
    prompt_perplexity: list[float] | None = None
    usage: list[float] | None = None
    usage_entropy: float | None = None
    agreement: float | None = None
    regret: float | None = None
    specialisation: float | None = None
    margin: float | None = None
    warnings: list[str] | None = None
    prompt_similarity: list[list[float]] | None = None
    parted: bool | None = None


def _checked(line: Any) -> Record | None:
    """A record without what was not finite; None where it is none."""
    try:
        return _MetricsRecord.model_validate(line).model_dump(exclude_none=True)
    except ValidationError:
        return None


def _read_evaluations(place: Path, notes: list[str]) -> dict[str, Evaluated]:
    folder = place / EVALUATION_NAME
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    names = [name for name in names if not name.startswith(".")]
    found = {}
    for name in sorted(names, key=lambda name: (name != BARE, name != MAIN, name)):
        one = _read_evaluation(folder / name, notes)
        if one:
            found[name] = one
    return found


def _read_evaluation(folder: Path, notes: list[str]) -> Evaluated | None:
    if not (folder / RESULT_NAME).exists():
        notes.append(f"{EVALUATION_NAME}/{folder.name} has no {RESULT_NAME}: that evaluation was not finished.")
        return None
    result = _attempt(lambda: load_result(folder), notes)
    if result is None:
        return None
    turns = (
        _attempt(lambda: read_records(folder / TURNS_NAME, TurnRecord), notes) if (folder / TURNS_NAME).exists() else []
    )
    path = folder / GENERATIONS_NAME
    generations = _attempt(lambda: read_records(path, Generation), notes) if path.exists() else []
    if not _consistent([*(turns or ()), *(generations or ())]):
        notes.append(
            f"{EVALUATION_NAME}/{folder.name}: its turns are of different numbers of prompts, and were left out."
        )
        turns, generations = [], []
    return Evaluated(folder.name, result, tuple(turns or ()), tuple(generations or ()))


def _consistent(turns: Sequence[TurnRecord | Generation]) -> bool:
    """Whether all turns have the same K, and a chosen prompt among them."""
    counts = {len(turn.scores) for turn in turns}
    counts |= {len(turn.logprobs) for turn in turns if isinstance(turn, TurnRecord) and turn.logprobs is not None}
    return len(counts) <= 1 and all(0 <= turn.prompt < len(turn.scores) for turn in turns)


def _similarity(adapter: Path, records: list[Record]) -> tuple[tuple[float, ...], ...] | None:
    """Of the adapter's own prompts; where they cannot be read, of the last validation."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        prompts = load_file(adapter / "adapter_model.safetensors")["prompts"].astype(np.float64)  # (K, L, D)
    except (OSError, SafetensorError, KeyError, ValueError):
        known = [record["prompt_similarity"] for record in records if "prompt_similarity" in record]
        return tuple(map(tuple, known[-1])) if known else None
    flat = prompts.reshape(len(prompts), -1)  # (K, L * D)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    if not flat.shape[1] or not norms.all():
        return None
    unit = flat / norms
    return tuple(tuple(row) for row in (unit @ unit.T).tolist())


def _missing(run: RunFolder) -> Iterator[str]:
    """What a complete run would have."""
    if not run.finished:
        yield "There is no adapter: training has not ended. Go on with `sptune train RUN/recipe.yaml --resume`."
    if run.train and not run.validation:
        yield "There are no validation figures: set data.validation or data.validation_path to watch unseen dialogues."
    if not run.evaluations:
        yield (
            "The run has not been evaluated. Name test dialogues in the recipe (evaluation.path or evaluation.split), "
            f"or run `sptune evaluate RUN/adapter --data FILE --output RUN/{EVALUATION_NAME}/{MAIN}`, "
            "then `sptune report RUN`."
        )
    elif not run.main:
        yield f"There is no evaluation named {MAIN}, so nothing here is about the trained adapter."
    elif not run.bare:
        yield (
            "The bare model has not been evaluated, so there is nothing to compare with: "
            f"`sptune evaluate --base MODEL --data FILE --output RUN/{EVALUATION_NAME}/{BARE}`."
        )
    if run.prompts == 1:
        yield "K = 1: there is no choice of prompts, so there are no figures and plots of selection."
