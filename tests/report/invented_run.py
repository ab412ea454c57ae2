"""An invented run folder, as `sptune train` would leave it: made by arithmetic, without any model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sptune.config import dump_recipe, parse_recipe
from sptune.evaluation.generation import Generation, measure
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
from sptune.model.selection import Selection

WARNING = "the prompts stay alike. Try losses.update=responsibility"
HUMAN = (
    "i mend old clocks in the cellar .",
    "no , my sister sails . i get sick on the ferry .",
    "only on sundays , with a lot of butter .",
    "ask me again when the kettle has boiled .",
    "three cats , and none of them is mine .",
    "that was before the flood , i think .",
)
SPEECH = "the kettle sings and my cats sail over the old ferry with butter on every clock again"
DIALOGUES, TURNS = 3, 4


def train_record(step: int, *, prompts: int = 4, **changes: Any) -> dict[str, Any]:
    """A record of kind `train`."""
    llm = 3.0 + math.exp(-step / 4)
    share = 1 / prompts
    record = {"kind": "train", "step": step, "epoch": step / 12, "total": 2 * llm, "llm": llm, "fusion": llm - 0.1}
    record |= {"selection": 0.01, "contrastive": 0.5, "tokens": 100.0, "examples": 5.0, "usage": [share] * prompts}
    return record | {"usage_entropy": 1.0, "learning_rate": 0.001} | changes


def validation_record(step: int, *, prompts: int = 4, **changes: Any) -> dict[str, Any]:
    """A record of kind `validation`."""
    each = [30.0 - step / 2 + k for k in range(prompts)]
    similarity = [[1.0 if i == k else 0.5 - step / 100 for k in range(prompts)] for i in range(prompts)]
    record = {"kind": "validation", "step": step, "perplexity": each[0], "fused_perplexity": each[0] - 1}
    record |= {"oracle_perplexity": each[0] - 2, "prompt_perplexity": each, "usage": [1.0] + [0.0] * (prompts - 1)}
    record |= {"usage_entropy": 0.0, "agreement": 0.4, "regret": 0.02, "specialisation": 0.05, "margin": 0.1}
    return record | {"prompt_similarity": similarity} | changes


def write_metrics(folder: Path, *, prompts: int = 4, validates: bool = True) -> None:
    """`metrics.jsonl` of 12 steps, with a warning at step 6."""
    lines = []
    for step in range(1, 13):
        lines.append(train_record(step, prompts=prompts, **({"warnings": [WARNING]} if step == 6 else {})))
        if validates and step % 4 == 0:
            lines.append(validation_record(step, prompts=prompts))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_recipe(folder: Path, *, prompts: int = 4, **settings: Any) -> None:
    """`recipe.yaml` of a run named `invented`."""
    raw = {"name": "invented", "data": {"path": "talks.txt", "train": "1:90", "validation": "91:95"}}
    raw |= {"prompts": {"count": prompts}, "evaluation": {"split": "96:98"}, **settings}
    (folder / "recipe.yaml").write_text(dump_recipe(parse_recipe(raw)), encoding="utf-8")


def write_evaluation(
    folder: Path,
    name: str,
    *,
    prompts: int = 4,
    worse: float = 0.0,
    replies: Sequence[str] = (),
    sha256: str = "d" * 64,
) -> EvaluationResult:
    """`evaluation/NAME`: prompt `turn % prompts` is chosen; it is the best one on turns 0 and 1 of each dialogue.

    `worse` is added to every loss; `replies` take the place of the first replies.
    """
    scores, generations, ranks = [], [], []
    for number in range(DIALOGUES * TURNS):
        dialogue, turn = f"talk-{number // TURNS}", number % TURNS
        chosen = turn % prompts
        best = chosen if turn < 2 else 0
        row = tuple(1.0 if k == chosen else 0.5 - 0.01 * k for k in range(prompts))
        selection = Selection(chosen, row, 0.5 if prompts > 1 else 0.0)
        losses = [3.0 + worse + (0.0 if k == best else 0.2) + 0.01 * number for k in range(prompts)]
        logprobs = tuple(-10 * loss for loss in losses)
        reference = HUMAN[number % len(HUMAN)]
        spoken = replies[number] if number < len(replies) else _speech(3 * number + int(worse), words=5 + number % 3)
        scores.append(TurnScore(dialogue, turn, 10, len(reference), logprobs, max(logprobs), selection))
        where = (dialogue, turn, ("i mend clocks .", "i have a sister ."), f"question {number} ?")
        generations.append(Generation(*where, spoken, reference, chosen, row, selection.margin, 8))
        ranks.append(TurnRank(dialogue, turn, 1 + number % 3, 20))
    output = folder / "evaluation" / name
    write_records(output / TURNS_NAME, [_turn(score, rank) for score, rank in zip(scores, ranks, strict=True)])
    write_records(output / GENERATIONS_NAME, generations)
    result = EvaluationResult(
        model=ModelInfo("tiny", None, "e" * 64, "adapter", "a" * 64, prompts, 8, "paper", True, "float32"),
        data=DataInfo("talks.txt", "96:98", "self", DIALOGUES, len(scores), sha256),
        settings=as_json(Settings()) | {"stops": []},
        likelihood=likelihood(scores),
        selection=selection_quality(scores) if prompts > 1 else None,
        ranking=ranking(ranks, turns=len(ranks)),
        metrics=measure(generations, profile="paper"),
        timings={"likelihood": 61.0},
    )
    save_result(output, result)
    return result


def write_run(folder: Path, *, prompts: int = 4, validates: bool = True) -> Path:
    """A whole run with the evaluations `spt`, `base` and `k1`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_recipe(folder, prompts=prompts)
    write_metrics(folder, prompts=prompts, validates=validates)
    (folder / "adapter").mkdir()
    write_evaluation(folder, "spt", prompts=prompts)
    write_evaluation(folder, "base", prompts=1, worse=1.0)
    write_evaluation(folder, "k1", prompts=1)
    return folder


def _speech(start: int, *, words: int) -> str:
    spoken = SPEECH.split()
    return " ".join(spoken[(start + n) % len(spoken)] for n in range(words))


def _turn(score: TurnScore, rank: TurnRank) -> TurnRecord:
    chosen = score.selection
    likelihood = (score.tokens, score.bytes, score.logprobs, score.fused_logprob)
    where = (score.dialogue, score.turn, chosen.prompt, chosen.scores, chosen.margin)
    return TurnRecord(*where, *likelihood, rank.rank, rank.candidates)
