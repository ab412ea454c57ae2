"""One cell from beginning to end: fit, load, evaluate under each decoding, probe. Whatever is there already is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptune.baselines.method import TrainingData
from sptune.config.compare import TOP1
from sptune.errors import DataError
from sptune.evaluation.records import read_records
from sptune.evaluation.result import TURNS_NAME, TurnRecord, load_result
from sptune.evaluation.run import Settings, evaluate
from sptune.experiments.cells import Cell
from sptune.experiments.controls import add_likelihood, best_single, derive, scored_turns
from sptune.experiments.folders import EVALUATION, FIT_TURNS_NAME, PROBE_NAME, RUN, UNFINISHED
from sptune.experiments.material import Material
from sptune.experiments.probe import ProbeTurns, context_features, run_probe
from sptune.experiments.record import write_record
from sptune.experiments.state import StateFile
from sptune.experiments.training_progress import TrainingProgress
from sptune.experiments.trials import kept_rate
from sptune.files import write_atomically, write_json

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.model.spt import SPTModel


def run_cell(cell: Cell, folder: Path, material: Material, *, rate: float | None, probe: str) -> None:
    """Run a cell, or the rest of it, and write its `cell.json`.

    Args:
        cell: what to do.
        folder: of the cell; this process holds it.
        material: what to do it with.
        rate: learning rate; the method's own where None.
        probe: turns that the offline probe learns from: validation, train or none.

    Raises:
        SptError: training or evaluation failed.
        KeyboardInterrupt: after Ctrl-C, with the state kept.
    """
    state = StateFile(folder)
    with state.timed("train_seconds"):
        material.method.fit(
            TrainingData(material.train, material.validation),
            folder=folder / RUN,
            seed=cell.seed,
            learning_rate=rate,
            progress=TrainingProgress(state.show),
            resume=True,
        )
    state.trained()
    with state.timed("evaluate_seconds"):
        _Evaluation(cell, folder, material, state).run(probe)
    rate = rate if rate is not None or not cell.settings.trains else kept_rate(folder)
    write_record(cell, folder, status="done", rate=rate, trainable=material.method.trainable_parameters)


def complete(output: Path, parts: Sequence[str]) -> bool:
    """Whether the folder of an evaluation holds its likelihoods and all of `parts`."""
    try:
        result = load_result(output)
    except DataError:
        return False
    return result.likelihood is not None and set(parts) <= set(result.settings["parts"])


class _Evaluation:
    """The evaluations of a fitted cell."""

    def __init__(self, cell: Cell, folder: Path, material: Material, state: StateFile) -> None:
        self.cell = cell
        self.folder = folder
        self.material = material
        self.state = state
        self.model: SPTModel = material.method.load(folder / RUN)

    def run(self, probe: str) -> None:
        """Every decoding that is not there yet, then the probe."""
        for name, parts in self.cell.evaluations.items():
            if not complete(self._output(name), parts):
                self._evaluate(name, parts)
        if self.cell.selects and probe != "none" and not (self.folder / PROBE_NAME).exists():
            self._probe(probe)

    def _evaluate(self, name: str, parts: Sequence[str]) -> None:
        top1, output = self._output(TOP1), self._output(name)
        if name == TOP1 or parts:
            self._measure(name, parts)
        else:
            derive(self.model, self.material.test, top1, output, settings=self._settings(name))
        if name != TOP1 and parts:
            add_likelihood(top1, output)

    def _measure(self, name: str, parts: Any) -> None:
        """Evaluate beside what is there already, which stays until all is done: this may be a further part of it."""
        place = self.folder / UNFINISHED / name
        evaluate(
            self.model,
            self.material.test,
            settings=replace(self._settings(name), parts=tuple(parts)),
            source=replace(self.material.source, adapter=str(self.folder / RUN)),
            output=place,
            progress=self.state.show,
        )

        def take(partial: Path) -> None:
            place.rename(partial)

        write_atomically(self._output(name), take)
        with suppress(OSError):  # another decoding was stopped
            place.parent.rmdir()

    def _settings(self, name: str) -> Settings:
        if name == "random":
            return replace(self.material.evaluation(TOP1), rule="random")
        if name == "best-single":
            return replace(self.material.evaluation(TOP1), prompt=best_single(self._fit_turns("validation")))
        return self.material.evaluation(name)

    def _probe(self, source: str) -> None:
        fit = ProbeTurns(context_features(self.model, self._fit_dialogues(source)), self._fit_turns(source))
        records = read_records(self._output(TOP1) / TURNS_NAME, TurnRecord)
        test = ProbeTurns(context_features(self.model, self.material.test), records)
        write_json(self.folder / PROBE_NAME, run_probe(fit, test, fitted_on=source).to_json())

    def _fit_turns(self, source: str) -> list[TurnRecord]:
        """The turns that the best single prompt is found with, or that the probe learns from, with log-probabilities."""
        path = self.folder / FIT_TURNS_NAME.format(source)
        return scored_turns(self.model, self._fit_dialogues(source), path, progress=self.state.show)

    def _fit_dialogues(self, source: str) -> Sequence[Dialogue]:
        return self.material.validation if source == "validation" else self.material.train

    def _output(self, name: str) -> Path:
        return self.folder / EVALUATION / name
