"""One version of the inputs, measured turn by turn; what a turn shares with the clean version is not computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sptune.evaluation.parts import Parts
from sptune.evaluation.turns import ChosenTurn
from sptune.model.mixture import mixed_logprobs, mixture_weights

if TYPE_CHECKING:
    from sptune.evaluation.generation import Generation
    from sptune.evaluation.ranking import TurnRank
    from sptune.evaluation.run import Settings
    from sptune.evaluation.scoring import TurnScore
    from sptune.evaluation.turns import Progress
    from sptune.model.spt import SPTModel

_Taken = TypeVar("_Taken", "TurnScore", "TurnRank", "Generation")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of n turns, in the order of the data. Parts that were not asked for are empty.

    Attributes:
        turns: n turns with the prompts that were chosen.
        scores: n likelihoods of the gold responses under every prompt.
        ranks: n ranks of the gold responses; None for turns without candidates.
        replies: n generated replies.
    """

    turns: tuple[ChosenTurn, ...]
    scores: tuple[TurnScore, ...] = ()
    ranks: tuple[TurnRank | None, ...] = ()
    replies: tuple[Generation, ...] = ()


def measure(
    model: SPTModel,
    turns: Sequence[ChosenTurn],
    settings: Settings,
    *,
    clean: Measurement | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Likelihood, ranking and generation of `turns`, as far as `settings.parts` asks for them.

    Args:
        model: the model.
        turns: from `choose_prompts`.
        settings: of the evaluation.
        clean: the measurement of the undisturbed inputs: as many turns, with the same gold responses.
        progress: called as work gets done.
    """
    parts = Parts(model, settings, progress)
    alone = parts.speakers.kind == "top1" and settings.rerank is None
    new = [n for n, turn in enumerate(turns) if clean is None or not _alike(turn, clean.turns[n], alone)]
    old = clean or Measurement(())
    made = Measurement(tuple(turns))
    if "likelihood" in settings.parts:
        made = replace(made, scores=tuple(_scores(parts, turns, clean)))
    if "ranking" in settings.parts:
        places = [n for n in new if rankable(turns[n])]
        ranks = parts.rank([turns[n] for n in places])
        made = replace(made, ranks=_merged(turns, old.ranks, dict(zip(places, ranks, strict=True))))
    if "generation" in settings.parts:
        replies = parts.generate([turns[n] for n in new], None) if new else []
        made = replace(made, replies=_merged(turns, old.replies, dict(zip(new, replies, strict=True))))
    return made


def _scores(parts: Parts, turns: Sequence[ChosenTurn], clean: Measurement | None) -> list[TurnScore]:
    """Likelihoods under every prompt do not depend on the choice: where no context differs, those of `clean` hold."""
    if clean and all(turn.context_ids == old.context_ids for turn, old in zip(turns, clean.turns, strict=True)):
        tau = parts.speakers.gate_temperature
        return [_gated_anew(score, turn, tau) for score, turn in zip(clean.scores, turns, strict=True)]
    return parts.score(turns)


def _gated_anew(score: TurnScore, turn: ChosenTurn, gate_temperature: float) -> TurnScore:
    """`score` under the gate of `turn`. A gate that mixes at every token needs what was not kept: its figure is None."""
    taken = _taken_over(score, turn)
    if turn.selection.scores == score.selection.scores:
        return taken
    gate = mixture_weights(turn.selection, kind="gated", temperature=gate_temperature)
    mixture = mixed_logprobs(torch.tensor(score.logprobs, dtype=torch.double), gate)
    return replace(taken, gated_logprob=None, mixture_logprob=float(mixture))


def _alike(turn: ChosenTurn, clean: ChosenTurn, alone: bool) -> bool:
    """Whether both ask the same of the model; unless the chosen prompt speaks alone, the scores have a say."""
    mine, other = turn.selection, clean.selection
    same = mine.prompt == other.prompt if alone else mine.scores == other.scores
    return same and turn.context_ids == clean.context_ids


def rankable(turn: ChosenTurn) -> bool:
    """Whether a turn has two or more candidates that differ."""
    candidates = turn.turn.candidates
    return bool(candidates) and len({text.strip() for text in (*candidates, turn.turn.response or "")}) > 1


def _merged(turns: Sequence[ChosenTurn], old: Sequence[Any], new: dict[int, Any]) -> tuple[Any, ...]:
    """One value a turn: the new one, else the old one, else None."""
    values = {n: _taken_over(one, turns[n]) for n, one in enumerate(old) if one} | new
    return tuple(values.get(n) for n in range(len(turns)))


def _taken_over(one: _Taken, turn: ChosenTurn) -> _Taken:
    """What was measured of the clean version of `turn`, with what is of the turn itself."""
    own: dict[str, Any] = {
        "dialogue": turn.dialogue.id,
        "turn": turn.span.turn,
        "persona": turn.dialogue.persona,
        "user": turn.turn.user,
        "selection": turn.selection,
        "scores": turn.selection.scores,
        "margin": turn.selection.margin,
    }
    known = {field.name for field in fields(one)}
    return replace(one, **{name: value for name, value in own.items() if name in known})
