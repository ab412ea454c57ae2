"""A whole evaluation: choose prompts, score the gold responses, rank candidates, generate, measure."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from sptune.data.dialogue import data_hash
from sptune.errors import UsageError
from sptune.evaluation.candidate_replies import Reranking
from sptune.evaluation.generation import Generation, check_room, measure
from sptune.evaluation.metrics import bertscore
from sptune.evaluation.metrics.profile import PROFILES
from sptune.evaluation.parts import Parts
from sptune.evaluation.ranking import ranking
from sptune.evaluation.records import read_records, write_records
from sptune.evaluation.result import (
    CANDIDATES_NAME,
    GENERATIONS_NAME,
    PARTIAL_CANDIDATES_NAME,
    PARTIAL_NAME,
    RESULT_NAME,
    TURNS_NAME,
    DataInfo,
    EvaluationResult,
    TurnRecord,
    model_info,
    save_result,
    turn_records,
)
from sptune.evaluation.scoring import likelihood, selection_quality
from sptune.evaluation.turns import choose_prompts
from sptune.files import storage_errors
from sptune.model.generate import Decoding

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.evaluation.turns import Progress
    from sptune.model.selection import SelectionRule
    from sptune.model.spt import SPTModel

Part = Literal["likelihood", "ranking", "generation"]
PARTS: tuple[Part, ...] = get_args(Part)
FILES = (RESULT_NAME, TURNS_NAME, GENERATIONS_NAME, CANDIDATES_NAME, PARTIAL_NAME, PARTIAL_CANDIDATES_NAME)

NO_CANDIDATES = "no turn has two or more candidates; give data with candidates, such as ConvAI2 files with 20 a turn"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to evaluate.

    Attributes:
        parts: what to do: likelihood, ranking, generation.
        profile: rules of the text metrics, `paper` or `standard` (docs/metrics.md).
        decoding: how replies are generated; greedy with at most 32 new tokens, as in the paper's tables. Its `kind` also
            says whose likelihood ranks candidates, and its `gate_temperature` holds for every gated figure. Without a `kind`,
            as the adapter is meant; the chosen prompt where `prompt`, `rule` or `rerank` say how it is chosen.
        rule: how a prompt is chosen from the scores, `top1`, `sample` or `random`.
        prompt: a forced prompt for every turn.
        bertscore_model: encoder of BERTScore, a folder or a downloaded hub id; None leaves BERTScore out.
        seed: of the rules `sample` and `random`, and of self-BLEU's sample.
        limit: evaluate the first so many dialogues; None is all.
        token_budget: the most tokens of a batch.
        rerank: how candidates are drawn and chosen from, in place of one reply a turn; None does not. Where `prompt` or `rule` say
            which prompt speaks, it draws and weighs them alone (`Reranking.alone`).
    """

    parts: tuple[Part, ...] = PARTS
    profile: str = "paper"
    decoding: Decoding = field(default_factory=Decoding)
    rule: SelectionRule = "top1"
    prompt: int | None = None
    bertscore_model: str | None = None
    seed: int = 0
    limit: int | None = None
    token_budget: int = 8192
    rerank: Reranking | None = None

    def __post_init__(self) -> None:
        """Refuse what no evaluation can do, before anything is run."""
        if not self.parts or set(self.parts) - set(PARTS):
            raise UsageError(f"parts: {','.join(self.parts)!r} is not a choice of {','.join(PARTS)}")
        if self.profile not in PROFILES:
            raise UsageError(f"profile: {self.profile!r} is not one of {', '.join(PROFILES)}")
        if self.rule not in ("top1", "sample", "random"):
            raise UsageError(f"rule: {self.rule!r} is not one of top1, sample, random")
        if self.prompt is not None and self.rule != "top1":
            raise UsageError(
                f"rule: {self.rule} chooses nothing where prompt {self.prompt} is forced; leave one of them out"
            )
        if self.rerank and self.decoding.num_beams > 1:
            raise UsageError(
                f"num_beams: {self.decoding.num_beams} beams follow one prompt; use num_beams=1 with rerank, which draws its candidates"
            )
        for name, number in (("limit", self.limit), ("token_budget", self.token_budget)):
            if number is not None and number < 1:
                raise UsageError(f"{name}: {number} is too small; give at least 1")


@dataclass(frozen=True, slots=True)
class Source:
    """Where model and dialogues came from, as the result names it; None for what was made in memory.

    Attributes:
        adapter: adapter folder or hub id.
        path: dialogue file.
        split: the dialogues "A:B" of it.
        persona: whose persona was read.
    """

    adapter: str | None = None
    path: str | None = None
    split: str | None = None
    persona: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation with the turns behind it.

    Attributes:
        result: every figure.
        turns: one record a turn, in the order of the data.
        generations: one reply a turn, in the order of the data; empty where none were generated.
    """

    result: EvaluationResult
    turns: tuple[TurnRecord, ...]
    generations: tuple[Generation, ...]


def evaluate(
    model: SPTModel,
    dialogues: Sequence[Dialogue],
    *,
    settings: Settings | None = None,
    source: Source | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate `model` on the turns of `dialogues` that have a gold response.

    Args:
        model: the model; it is left as it is.
        dialogues: with gold responses, and candidates where there is to be ranking.
        settings: how; see `Settings` for what holds where None.
        source: where model and dialogues came from, for the result.
        output: a folder for `turns.jsonl`, `generations.jsonl` and `evaluation.json`. Each is written as soon as it is
            complete, and replaces an earlier one; on Ctrl-C the replies so far go to `generations.partial.jsonl`. Candidates are kept
            as they are made, until all is done: the same evaluation into the same folder goes on with them, however it was stopped.
        progress: called as work gets done.

    Raises:
        DataError: no gold response, one that is not among its candidates, or text that does not fit the model's window.
        UsageError: a setting that does not fit the model.
        ModelError: numbers that are not finite, or an encoder for BERTScore that cannot be loaded.
        StorageError: `output` cannot be written.
        GenerationInterrupted: Ctrl-C while replies were generated or measured.
    """
    settings, source = settings or Settings(), source or Source()
    dialogues = dialogues[: settings.limit]
    run = Parts(model, settings, progress)
    with run.timed("loading"):
        _load_encoder(settings)
        turns = choose_prompts(model, dialogues, rule=settings.rule, prompt=settings.prompt, seed=settings.seed)
        if "generation" in settings.parts:
            check_room(model, turns, settings.decoding)
    scores, ranks = run.score(turns), run.rank(turns)
    records = turn_records(turns, scores, ranks)
    if output:
        _clear(output, but=PARTIAL_CANDIDATES_NAME if settings.rerank else None)
        write_records(output / TURNS_NAME, records)
    generations = run.generate(turns, output)
    result = EvaluationResult(
        model=model_info(model, source.adapter),
        data=DataInfo(source.path, source.split, source.persona, len(dialogues), len(turns), data_hash(dialogues)),
        settings=as_json(replace(settings, decoding=run.decoding, rerank=run.rerank)) | {"stops": list(model.stops)},
        likelihood=likelihood(scores) if scores else None,
        selection=selection_quality(scores) if scores and model.prompts.count > 1 else None,
        ranking=ranking(ranks, turns=len(turns)),
        metrics=run.measure(generations, output),
        missing={"ranking": NO_CANDIDATES} if "ranking" in settings.parts and not ranks else {},
        timings=run.seconds,
    )
    if output:
        save_result(output, result)
        with storage_errors(output):
            (output / PARTIAL_CANDIDATES_NAME).unlink(missing_ok=True)
    return Evaluation(result, tuple(records), tuple(generations))


def measure_again(
    generations: Path, *, settings: Settings | None = None, output: Path | None = None
) -> EvaluationResult:
    """Text metrics of replies made before, without any model.

    Args:
        generations: a `generations.jsonl`.
        settings: `profile`, `bertscore_model` and `seed` count.
        output: a folder for `evaluation.json`. Files of an earlier evaluation there are removed, unless `generations` is among them.

    Raises:
        DataError: the file is missing or damaged.
        ModelError: the encoder for BERTScore cannot be loaded.
        StorageError: `output` cannot be written.
    """
    settings = settings or Settings()
    begin = time.perf_counter()
    replies = read_records(generations, Generation)
    wanted = {"profile": settings.profile, "bertscore_model": settings.bertscore_model, "seed": settings.seed}
    metrics = measure(replies, profile=settings.profile, bertscore_model=settings.bertscore_model, seed=settings.seed)
    seconds = {"metrics": round(time.perf_counter() - begin, 3)}
    settled = {"generations": str(generations), **wanted}
    result = EvaluationResult(model=None, data=None, settings=settled, metrics=metrics, timings=seconds)
    if output:
        if not any(path.samefile(generations) for path in occupied(output)):
            _clear(output)
        save_result(output, result)
    return result


def as_json(settings: Settings) -> dict[str, Any]:
    """`settings` as they stand in `evaluation.json`."""
    record: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return record


def occupied(output: Path) -> list[Path]:
    """Files of an earlier evaluation in the folder `output`."""
    return [output / name for name in FILES if (output / name).exists()]


def _clear(output: Path, *, but: str | None = None) -> None:
    """Remove an earlier evaluation's files: they do not belong to the ones that are about to be written."""
    with storage_errors(output):
        for path in occupied(output):
            if path.name != but:
                path.unlink()


def _load_encoder(settings: Settings) -> None:
    """Load BERTScore's encoder now: one that is not there must not be noticed after an hour of generation."""
    if settings.bertscore_model and "generation" in settings.parts and bertscore.installed():
        bertscore.load_encoder(settings.bertscore_model)
