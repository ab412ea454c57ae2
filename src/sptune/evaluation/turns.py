"""The turns of a data set as an evaluation sees them: their tokens, and the prompt that was chosen for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sptune.data.encoder import TokenSequence, TurnSpan
from sptune.errors import DataError
from sptune.model.sampling import draw_seed
from sptune.model.selection import Selection, SelectionRule, select

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.data.dialogue import Dialogue, Turn
    from sptune.model.spt import SPTModel

Progress = Callable[[str, int, int], None]
"""Called with the part of the evaluation, what of it is done, and what there is in all."""


@dataclass(frozen=True, slots=True)
class ChosenTurn:
    """One turn with a response, and the prompt chosen for its context.

    Attributes:
        sequence: the tokens that it is read from; turns of one dialogue usually share them.
        span: where its context and response stand in `sequence`.
        selection: the prompt that speaks, here and in every part of an evaluation.
    """

    sequence: TokenSequence
    span: TurnSpan
    selection: Selection

    @property
    def dialogue(self) -> Dialogue:
        """The dialogue it belongs to."""
        return self.sequence.dialogue

    @property
    def turn(self) -> Turn:
        """What was said."""
        return self.dialogue.turns[self.span.turn]

    @property
    def context_ids(self) -> tuple[int, ...]:
        """The tokens of its context."""
        return self.sequence.input_ids[: self.span.context_length]


@torch.no_grad()
def choose_prompts(
    model: SPTModel,
    dialogues: Sequence[Dialogue],
    *,
    rule: SelectionRule = "top1",
    prompt: int | None = None,
    seed: int = 0,
) -> list[ChosenTurn]:
    """Every turn of `dialogues` that has a response, in order, each with its prompt.

    A turn's prompt depends on its own context, the rule and the seed alone, not on which other turns are evaluated.

    Args:
        model: the model.
        dialogues: with gold responses; the history of a turn is that of the data.
        rule: how a prompt is chosen from the scores.
        prompt: a forced prompt for all turns.
        seed: of the rules `sample` and `random`; each turn draws with its own seed, made of this one, the dialogue's id and the turn.

    Raises:
        DataError: no turn has a response, or one does not fit the base model's window.
        UsageError: there is no such prompt.
    """
    turns = []
    for dialogue in dialogues:
        for sequence in model.encoder.encode(dialogue):
            scores = _scores(model, sequence)  # (n, K)
            for row, span in zip(scores, sequence.spans, strict=True):
                draw = torch.Generator().manual_seed(draw_seed(seed, dialogue.id, span.turn))
                (selection,) = select(row[None], rule=rule, prompt=prompt, generator=draw)
                turns.append(ChosenTurn(sequence, span, selection))
    if not turns:
        raise DataError(
            "data: no turn has a response, so there is nothing to evaluate; give dialogues that hold responses"
        )
    return turns


def by_sequence(turns: Sequence[ChosenTurn]) -> Iterator[list[ChosenTurn]]:
    """Neighbouring turns that are read from one token sequence, together."""
    group: list[ChosenTurn] = []
    for turn in turns:
        if group and turn.sequence is not group[-1].sequence:
            yield group
            group = []
        group.append(turn)
    if group:
        yield group


def _scores(model: SPTModel, sequence: TokenSequence) -> Tensor:
    device = model.backbone.device
    length = torch.tensor([span.context_length for span in sequence.spans], device=device)
    ids = torch.tensor([sequence.input_ids], device=device)
    contexts = model.contexts(model.backbone.embed(ids), torch.zeros_like(length), length)
    scores: Tensor = model.retriever(contexts, model.prompts.embeddings)
    return scores
