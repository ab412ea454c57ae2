"""A robustness test: measure the clean input, disturb it in each way, measure again, compare turn by turn."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.data.dialogue import data_hash
from sptune.errors import UsageError
from sptune.evaluation.generation import check_room
from sptune.evaluation.records import write_records
from sptune.evaluation.result import GENERATIONS_NAME, TURNS_NAME, DataInfo, model_info, turn_records
from sptune.evaluation.run import Settings as EvaluationSettings
from sptune.evaluation.run import Source
from sptune.evaluation.turns import choose_prompts
from sptune.experiments.robustness.measurement import Measurement, measure, rankable
from sptune.experiments.robustness.movement import choice_movement, metric_movements
from sptune.experiments.robustness.noise import with_noise
from sptune.experiments.robustness.perturbation import NAMES, meaning_of, perturb
from sptune.experiments.robustness.report import PLOT_NAME, PLOTS_NAME, REPORT_NAME
from sptune.experiments.robustness.result import Condition, RobustnessResult
from sptune.files import storage_errors, write_json

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.evaluation.turns import ChosenTurn, Progress
    from sptune.model.spt import SPTModel

RESULT_NAME = "robustness.json"
CLEAN, NOISE_PREFIX = "clean", "noise-"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to test.

    Attributes:
        perturbations: names of `perturbation.NAMES`.
        noise: standard deviations of noise on the scores; not used where K = 1.
        evaluation: parts, rules of the metrics, decoding, seed (also of perturbations and noise), limit, token budget.
        samples: resamples of the bootstrap.
    """

    perturbations: tuple[str, ...] = NAMES
    noise: tuple[float, ...] = (0.01, 0.1)
    evaluation: EvaluationSettings = field(default_factory=lambda: EvaluationSettings(parts=("likelihood",)))
    samples: int = 1000

    def __post_init__(self) -> None:
        """Refuse what cannot be done, before anything is run."""
        for name in self.perturbations:
            if name not in NAMES:
                raise UsageError(f"perturb: {name!r} is not one of {', '.join(NAMES)}")
        for deviation in self.noise:
            if not 0 < deviation < float("inf"):
                raise UsageError(f"noise: {deviation} is no standard deviation; give numbers above 0, as in 0.01,0.1")
        if self.evaluation.rule != "top1" or self.evaluation.prompt is not None:
            raise UsageError("rule: only the choice by the best score is tested; leave rule and prompt out")


def is_condition(name: str) -> bool:
    """Whether a test may write a folder of that name."""
    return name in (CLEAN, *NAMES) or bool(re.fullmatch(rf"{NOISE_PREFIX}[\d.e+-]+", name))


def run(
    model: SPTModel,
    dialogues: Sequence[Dialogue],
    *,
    settings: Settings | None = None,
    source: Source | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> RobustnessResult:
    """How far choices of prompts, scores and metrics move when inputs or scores are disturbed.

    Args:
        model: the model; it is left as it is.
        dialogues: of at least two dialogues with gold responses, which no perturbation touches.
        settings: how; see `Settings` for what holds where None.
        source: where model and dialogues came from, for the result.
        output: a folder for `robustness.json`, and `turns.jsonl` and `generations.jsonl` of each condition. Those of an earlier test, and
            its report, are removed before anything is measured.
        progress: called as work gets done, with the condition before the part.

    Raises:
        DataError: no gold response, or a disturbed context that does not fit the model's window.
        UsageError: a setting that does not fit the data, or fewer than two dialogues.
        StorageError: `output` cannot be written.
    """
    settings, source = settings or Settings(), source or Source()
    dialogues = dialogues[: settings.evaluation.limit]
    turns = choose_prompts(model, dialogues)
    disturbed = _disturbed(model, dialogues, turns, settings)
    if output:
        _clear(output)
    test = _Test(model, settings, output, progress)
    clean = test.measure(CLEAN, turns)
    conditions = [test.compare(clean, one) for one in disturbed]
    result = RobustnessResult(
        model=model_info(model, source.adapter),
        data=DataInfo(source.path, source.split, source.persona, len(dialogues), len(turns), data_hash(dialogues)),
        settings=asdict(settings),
        usage=choice_movement(clean.turns, clean.turns).usage,
        conditions=tuple(conditions),
    )
    if output:
        write_json(output / RESULT_NAME, result.to_json())
    return result


def _clear(output: Path) -> None:
    """Remove an earlier test's files, its result first: they do not belong to the ones that are about to be written."""
    stale = [output / RESULT_NAME, output / REPORT_NAME, output / PLOTS_NAME / f"{PLOT_NAME}.png"]
    conditions = [folder for folder in output.glob("*") if is_condition(folder.name) and folder.is_dir()]
    stale += [folder / name for folder in conditions for name in (TURNS_NAME, GENERATIONS_NAME)]
    with storage_errors(output):
        for path in stale:
            path.unlink(missing_ok=True)
        for folder in conditions:
            if not any(folder.iterdir()):
                folder.rmdir()


@dataclass(frozen=True, slots=True)
class _Disturbed:
    """Name, meaning and turns of a condition."""

    name: str
    meaning: str
    turns: list[ChosenTurn]


def _disturbed(
    model: SPTModel, dialogues: Sequence[Dialogue], turns: Sequence[ChosenTurn], settings: Settings
) -> list[_Disturbed]:
    """Every condition, before any of them is measured: what cannot be done is refused at once."""
    evaluation = settings.evaluation
    if len({turn.dialogue.id for turn in turns}) < 2:
        raise UsageError("split: one dialogue cannot be resampled; at least 2 are needed")
    ranked = {turn.dialogue.id for turn in turns if rankable(turn)}
    if "ranking" in evaluation.parts and len(ranked) < 2:
        raise UsageError(
            f"parts: ranking needs two or more candidates a turn in at least 2 dialogues, and found them in {len(ranked)}; "
            "give data with candidates, such as ConvAI2 files with 20 a turn, or leave ranking out"
        )
    made = [
        _Disturbed(name, meaning_of(name), choose_prompts(model, perturb(name, dialogues, seed=evaluation.seed)))
        for name in settings.perturbations
    ]
    for deviation in settings.noise if model.prompts.count > 1 else ():
        meaning = f"noise of standard deviation {deviation:g} on the scores"
        noisy = with_noise(turns, deviation, seed=evaluation.seed)
        made.append(_Disturbed(f"{NOISE_PREFIX}{deviation:g}", meaning, noisy))
    if not made:
        raise UsageError("perturb: nothing to disturb; name a perturbation, or noise where there is a prompt to choose")
    if "generation" in evaluation.parts:
        for one in (turns, *(one.turns for one in made)):
            check_room(model, one, evaluation.decoding)
    return made


@dataclass(frozen=True, slots=True)
class _Test:
    """What the measurements of one test share."""

    model: SPTModel
    settings: Settings
    output: Path | None
    progress: Progress | None

    def measure(self, name: str, turns: Sequence[ChosenTurn], clean: Measurement | None = None) -> Measurement:
        """The measurement of a condition, written down."""

        def show(part: str, done: int, total: int) -> None:
            if self.progress:
                self.progress(f"{name} {part}", done, total)

        found = measure(self.model, turns, self.settings.evaluation, clean=clean, progress=show)
        if self.output:
            ranks = [rank for rank in found.ranks if rank]
            write_records(self.output / name / TURNS_NAME, turn_records(found.turns, found.scores, ranks))
            if found.replies:
                write_records(self.output / name / GENERATIONS_NAME, found.replies)
        return found

    def compare(self, clean: Measurement, disturbed: _Disturbed) -> Condition:
        """What a condition moved."""
        begin = time.perf_counter()
        responses = [[turn.turn.response for turn in turns] for turns in (disturbed.turns, clean.turns)]
        assert responses[0] == responses[1], f"{disturbed.name} touched gold responses"
        found = self.measure(disturbed.name, disturbed.turns, clean)
        choice = choice_movement(clean.turns, found.turns) if self.model.prompts.count > 1 else None
        profile = self.settings.evaluation.profile
        metrics = metric_movements(clean, found, profile=profile, samples=self.settings.samples)
        seconds = round(time.perf_counter() - begin, 3)
        return Condition(disturbed.name, disturbed.meaning, choice, metrics, seconds)
