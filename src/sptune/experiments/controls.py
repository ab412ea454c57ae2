"""Evaluations under another choice of prompts: their likelihoods follow from those under top-1, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sptune.errors import DataError
from sptune.evaluation.records import read_records, write_records
from sptune.evaluation.result import TURNS_NAME, TurnRecord, load_result, save_result, turn_records
from sptune.evaluation.run import Settings, as_json
from sptune.evaluation.scoring import TurnScore, likelihood, score_turns, selection_quality
from sptune.evaluation.turns import Progress, choose_prompts
from sptune.model.selection import Selection

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.model.spt import SPTModel


_FIGURES = tuple(one.name for one in fields(TurnScore) if one.name not in ("dialogue", "turn", "selection"))


def scored_turns(
    model: SPTModel, dialogues: Sequence[Dialogue], path: Path, *, progress: Progress | None = None
) -> list[TurnRecord]:
    """The log-probabilities of dialogues' responses under the K prompts, kept in a file.

    Args:
        model: the model.
        dialogues: with gold responses.
        path: read where it is there, else written.
        progress: called as work gets done.
    """
    if path.exists():
        return read_records(path, TurnRecord)
    turns = choose_prompts(model, dialogues)
    records = turn_records(turns, score_turns(model, turns, progress=progress), [])
    write_records(path, records)
    return records


def best_single(records: Sequence[TurnRecord]) -> int:
    """The prompt with the lowest perplexity over `records`, which have log-probabilities."""
    total = torch.tensor([record.logprobs for record in records], dtype=torch.double).sum(0)  # (K,)
    return int(total.argmax())


def derive(model: SPTModel, dialogues: Sequence[Dialogue], top1: Path, output: Path, *, settings: Settings) -> None:
    """Write the evaluation of another choice of prompts that runs no model: its likelihoods alone.

    Args:
        model: the model; chooses the prompts.
        dialogues: those of `top1`.
        top1: folder of the evaluation under top-1.
        output: folder of the new one.
        settings: `rule`, `prompt` and `seed` choose the prompts.
    """
    chosen = choose_prompts(model, dialogues, rule=settings.rule, prompt=settings.prompt, seed=settings.seed)
    known = load_result(top1)
    how = known.settings | as_json(replace(settings, parts=("likelihood",)))
    bare = replace(known, settings=how, likelihood=None, metrics=None, ranking=None, missing={}, timings={})
    write_records(output / TURNS_NAME, turn_records(chosen, [], []))
    save_result(output, bare)
    add_likelihood(top1, output)


def add_likelihood(top1: Path, output: Path) -> None:
    """Work out the likelihoods of an evaluation from those that another one found for the same turns.

    Args:
        top1: folder of the evaluation that has log-probabilities.
        output: folder of the one that gets them; its own choice of prompts counts.

    Raises:
        DataError: the two are of different turns.
    """
    found = {(one.dialogue, one.turn): one for one in read_records(top1 / TURNS_NAME, TurnRecord)}
    records = read_records(output / TURNS_NAME, TurnRecord)
    if found.keys() != {(one.dialogue, one.turn) for one in records}:
        raise DataError(f"{output / TURNS_NAME}: holds other turns than {top1 / TURNS_NAME}; delete {output}")
    filled = [_with_score(one, found[one.dialogue, one.turn]) for one in records]
    scores = [_score(one) for one in filled]
    write_records(output / TURNS_NAME, filled)
    selection = selection_quality(scores) if len(scores[0].logprobs) > 1 else None
    save_result(output, replace(load_result(output), likelihood=likelihood(scores), selection=selection))


def _with_score(record: TurnRecord, known: TurnRecord) -> TurnRecord:
    """`record` with the likelihoods of `known`, which do not depend on who was chosen."""
    figures: dict[str, Any] = {name: getattr(known, name) for name in _FIGURES}
    return replace(record, **figures)


def _score(record: TurnRecord) -> TurnScore:
    figures: dict[str, Any] = {name: getattr(record, name) for name in _FIGURES}
    chosen = Selection(record.prompt, record.scores, record.margin)
    return TurnScore(dialogue=record.dialogue, turn=record.turn, selection=chosen, **figures)
