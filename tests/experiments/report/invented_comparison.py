"""Invented comparison folders, as `sptune compare` would leave them: made by arithmetic and seeded draws, without any model."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sptune.config import dump_comparison, parse_comparison
from sptune.evaluation.generation import Generation, measure
from sptune.evaluation.metrics.bertscore import BertScore
from sptune.evaluation.ranking import TurnRank, ranking
from sptune.evaluation.records import write_records
from sptune.evaluation.result import (
    GENERATIONS_NAME,
    TURNS_NAME,
    DataInfo,
    EvaluationResult,
    ModelInfo,
    TurnRecord,
    save_result,
)
from sptune.evaluation.run import Settings, as_json
from sptune.evaluation.scoring import TurnScore, likelihood, selection_quality
from sptune.experiments.cells import label_of
from sptune.experiments.folders import CELL_NAME, EVALUATION, PROBE_NAME, RUN, TUNING_NAME, cell_folder
from sptune.experiments.plan import SETTINGS_NAME
from sptune.files import write_json, write_text
from sptune.model.selection import Selection
from sptune.training.metrics_log import MetricsLog

WORDS = tuple(f"{first}{rest}" for rest in ("ail", "oat", "ink", "ump", "esh", "orn") for first in "bcdfghklmnprstvw")
COMMON = ("i", "am", "the", "a", "you", "like", "to", "my", "do", "is", "and", "have", ".", "?")
DIALOGUES, TURNS = 20, 1
VERSIONS = {"python": "3.11.2", "sptune": "0.1.0"}


@dataclass(frozen=True)
class Behaviour:
    """How an invented system behaves.

    Attributes:
        copied: share of the words of the human response that its reply repeats.
        rare: share of its other words that are uncommon.
        length: words a reply.
        loss: nats per token under its best prompt.
        prompts: K.
        follows: share of turns on which the best prompt is chosen.
        curve: validation perplexities in the course of training.
        bertscore: mean of BERTScore's three figures; None leaves them out.
        scored: whether BERTScore is kept for each reply.
    """

    copied: float = 0.2
    rare: float = 0.3
    length: int = 8
    loss: float = 3.0
    prompts: int = 1
    follows: float = 0.5
    curve: tuple[float, ...] = (40.0, 30.0, 26.0)
    bertscore: float | None = None
    scored: bool = False


@dataclass(frozen=True)
class Size:
    """How much test data there is."""

    dialogues: int = DIALOGUES
    turns: int = TURNS


def write_settings(folder: Path, methods: Mapping[str, Mapping[str, Any]], **settings: Any) -> None:
    """`compare.yaml` of a comparison named `invented`, against `pt` where that is one of the methods."""
    raw: dict[str, Any] = {"name": "invented", "seeds": [0, 1], "tuning": {"unequal": True}}
    raw |= {
        "reference": "pt" if "pt" in methods else None,
        "methods": {name: dict(one) for name, one in methods.items()},
    }
    write_text(folder / SETTINGS_NAME, dump_comparison(parse_comparison(raw | settings)))


def write_cell(
    folder: Path,
    method: str,
    seed: int,
    behaviour: Behaviour,
    *,
    setting: Mapping[str, Any] | None = None,
    size: Size | None = None,
    decodings: Sequence[str] | Mapping[str, Behaviour] = ("top1",),
    replies: Sequence[str] | None = None,
    **record: Any,
) -> Path:
    """A cell that is done, with its evaluations and its learning curve; `replies` take the place of invented ones.

    A decoding may have a behaviour of its own.
    """
    place = cell_folder(folder, label_of(method, setting or {}), seed)
    write_record(folder, method, seed, setting=setting, **record)
    log = MetricsLog(place / RUN / "metrics.jsonl")
    for step, perplexity in enumerate(behaviour.curve, start=1):
        log.append({"kind": "train", "step": step, "tokens": 1000.0, "total": 3.0})
        log.append({"kind": "validation", "step": step, "perplexity": perplexity + 0.3 * seed})
    for decoding in decodings:
        own = decodings[decoding] if isinstance(decodings, Mapping) else behaviour
        write_evaluation(place, decoding, seed, own, size=size or Size(), replies=replies)
    if behaviour.prompts > 1:
        picks = [0] * ((size or Size()).dialogues * (size or Size()).turns)
        write_json(
            place / PROBE_NAME, {"perplexity": 25.0, "hidden": {"perplexity": 25.0, "alpha": 1.0, "picks": picks}}
        )
    return place


def write_record(
    folder: Path, method: str, seed: int, *, setting: Mapping[str, Any] | None = None, **changes: Any
) -> Path:
    """`cell.json`."""
    record = {"method": method, "kind": "spt", "label": label_of(method, setting or {}), "setting": dict(setting or {})}
    record |= {"seed": seed, "learning_rate": 0.01, "status": "done", "error": None, "trainable_parameters": 350784}
    record |= {"train_seconds": 200.0 + seed, "evaluate_seconds": 90.0, "peak_memory_bytes": 3 * 2**30}
    record |= {
        "train_peak_memory_bytes": 2 * 2**30,
        "train_tokens": 3000,
        "versions": VERSIONS,
        "machine": "Linux x86_64, 2 CPU cores",
    }
    place = cell_folder(folder, str(record["label"]), seed)
    write_json(place / CELL_NAME, record | changes)
    return place


def write_evaluation(
    place: Path, decoding: str, seed: int, behaviour: Behaviour, *, size: Size, replies: Sequence[str] | None = None
) -> None:
    """`evaluation/DECODING` of a cell; all have likelihoods, only top-1 has ranks."""
    main, output = decoding == "top1", place / EVALUATION / decoding
    scores = [_score(number, seed, behaviour, size) for number in range(size.dialogues * size.turns)]
    ranks = [TurnRank(score.dialogue, score.turn, 1 + (n + seed) % 3, 20) for n, score in enumerate(scores)]
    drawn = random.Random(f"{place.parent.name} {seed} {decoding}")
    generations = [_generation(n, score, behaviour, drawn, replies) for n, score in enumerate(scores)]
    write_records(output / TURNS_NAME, [_record(score, rank, main) for score, rank in zip(scores, ranks, strict=True)])
    metrics = measure(generations, profile="paper")
    if behaviour.bertscore is not None:
        names = ("bertscore_f1", "bertscore_precision", "bertscore_recall")
        metrics.values.update(dict.fromkeys(names, behaviour.bertscore))
    if behaviour.scored:
        generations = _scored(generations, behaviour)
    write_records(output / GENERATIONS_NAME, generations)
    encoder = None if behaviour.bertscore is None else "invented"
    forced = {"prompt": 0} if decoding == "best-single" else {}
    result = EvaluationResult(
        model=ModelInfo("tiny", None, "e" * 64, "adapter", "a" * 64, behaviour.prompts, 8, "paper", True, "float32"),
        data=DataInfo("talks.txt", "96:98", "self", size.dialogues, len(scores), "d" * 64),
        settings=as_json(Settings()) | {"stops": [], "bertscore_model": encoder} | forced,
        likelihood=likelihood(scores),
        selection=selection_quality(scores) if behaviour.prompts > 1 else None,
        ranking=ranking(ranks, turns=len(ranks)) if main else None,
        metrics=metrics,
    )
    save_result(output, result)


def write_trial(folder: Path, method: str, rate: float, perplexity: float | None, **changes: Any) -> None:
    """A line of `tuning.jsonl`."""
    line = {"method": method, "setting": {}, "learning_rate": rate, "perplexity": perplexity, "seconds": 30.0}
    with (folder / TUNING_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | {"seed": 0, "dialogues": 200} | changes) + "\n")


@cache
def human(number: int) -> str:
    """The human response of a turn: seven uncommon words and three common ones."""
    drawn = random.Random(f"human {number}")
    return " ".join([*drawn.sample(WORDS, 7), *drawn.sample(COMMON, 3)])


def _score(number: int, seed: int, behaviour: Behaviour, size: Size) -> TurnScore:
    """Each prompt is best on its share of the turns, and 0.4 nats per token ahead there."""
    drawn = random.Random(f"score {number} {seed}")
    best = drawn.randrange(behaviour.prompts)
    chosen = best if drawn.random() < behaviour.follows else drawn.randrange(behaviour.prompts)
    ease = drawn.gauss(0.0, 0.3)
    losses = [behaviour.loss + ease + (0.0 if k == best else 0.4) for k in range(behaviour.prompts)]
    row = tuple(1.0 if k == chosen else 0.2 for k in range(behaviour.prompts))
    logprobs = tuple(-10 * loss for loss in losses)
    where = (f"talk-{number // size.turns:02}", number % size.turns)
    selection = Selection(chosen, row, 0.8 if behaviour.prompts > 1 else 0.0)
    fused, gated = max(logprobs) - 0.5, max(logprobs) - 0.2
    return TurnScore(*where, 10, len(human(number)), logprobs, fused, selection, gated)


def _generation(
    number: int, score: TurnScore, behaviour: Behaviour, drawn: random.Random, replies: Sequence[str] | None
) -> Generation:
    reference, chosen = human(number), score.selection
    kept = [word for word in reference.split() if drawn.random() < behaviour.copied]
    while len(kept) < behaviour.length:
        kept.append(drawn.choice(WORDS if drawn.random() < behaviour.rare else COMMON))
    spoken = " ".join(kept[: behaviour.length]) if replies is None else replies[number]
    where = (score.dialogue, score.turn, ("i like to sail .", "i have a sister ."), f"question {number} ?")
    return Generation(*where, spoken, reference, chosen.prompt, chosen.scores, chosen.margin, 8)


def _scored(generations: Sequence[Generation], behaviour: Behaviour) -> list[Generation]:
    """With BERTScores around their mean: above it and below it by turns, and the last on it where their number is odd."""
    mean, last = behaviour.bertscore or 0.0, len(generations) // 2 * 2
    values = [mean + (2.0 if n % 2 else -2.0) * (n < last) for n in range(len(generations))]
    scores = (BertScore(value, value, value) for value in values)
    return [replace(one, bertscore=score) for one, score in zip(generations, scores, strict=True)]


def _record(score: TurnScore, rank: TurnRank, main: bool) -> TurnRecord:
    chosen = score.selection
    where = (score.dialogue, score.turn, chosen.prompt, chosen.scores, chosen.margin)
    figures = (score.tokens, score.bytes, score.logprobs, score.fused_logprob)
    ranks = (rank.rank, rank.candidates) if main else (None, None)
    return TurnRecord(*where, *figures, *ranks, score.gated_logprob)
