"""How a template and its longest context treat dialogues: what is cut, what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sptune.data.check import summary
from sptune.data.dialogue import Dialogue
from sptune.data.encoder import DialogueEncoder


@dataclass(frozen=True, slots=True)
class TruncationReport:
    """What a recipe's template makes of dialogues.

    Attributes:
        turns: turns with a response.
        truncated_turns: those whose oldest history is dropped to keep `template.max_length`.
        too_long: those that do not fit the base model's window even without history.
        context_tokens: min, mean, p50, p95, max tokens of a context.
        response_tokens: the same of a response, its stop token included.
    """

    turns: int
    truncated_turns: int
    too_long: int
    context_tokens: dict[str, float]
    response_tokens: dict[str, float]


def count_truncation(encoder: DialogueEncoder, dialogues: Sequence[Dialogue]) -> TruncationReport:
    """How `encoder` treats dialogues, turn by turn.

    Raises:
        DataError: the template renders nothing.
    """
    contexts: list[int] = []
    responses: list[int] = []
    truncated = too_long = 0
    for dialogue in dialogues:
        for turn, context in zip(dialogue.turns, encoder.contexts(dialogue), strict=True):
            if turn.response is None or not turn.learn:
                continue
            tokens = len(context.input_ids)
            if not encoder.fits(tokens + 1):
                too_long += 1
                continue
            response = len(encoder.response_ids(turn.response))
            contexts.append(tokens)
            responses.append(response + int(encoder.learn_stop))
            truncated += context.dropped_turns > 0
            too_long += not encoder.fits(tokens + response)
    examples = sum(turn.response is not None and turn.learn for talk in dialogues for turn in talk.turns)
    return TruncationReport(examples, truncated, too_long, summary(contexts), summary(responses))
