"""What a data set holds, in numbers: counts, problems and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sptune.data.load import ReadResult


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Counts and lengths of one data set; the lengths are those of the dialogues without error.

    Attributes:
        format: as read.
        dialogues: without error.
        skipped: dialogues with an error.
        turns: with a response to learn, so training examples.
        history_turns: with a response that is only history (weight 0).
        personas: that differ.
        turns_with_candidates: turns that can be ranked.
        errors: number of problems that leave a dialogue out.
        warnings: number of the other problems.
        codes: number of problems of each code.
        persona_sentences: sentences a persona, summarised by `summary`.
        turns_per_dialogue: summarised likewise.
        user_words: white-space tokens a user message, summarised likewise.
        response_words: white-space tokens a response, summarised likewise.
        candidates: candidates a turn that has any, summarised likewise.
    """

    format: str
    dialogues: int
    skipped: int
    turns: int
    history_turns: int
    personas: int
    turns_with_candidates: int
    errors: int
    warnings: int
    codes: dict[str, int]
    persona_sentences: dict[str, float]
    turns_per_dialogue: dict[str, float]
    user_words: dict[str, float]
    response_words: dict[str, float]
    candidates: dict[str, float]


def check(result: ReadResult) -> CheckReport:
    """Counts and lengths of what was read."""
    talks = result.dialogues
    turns = [turn for talk in talks for turn in talk.turns]
    examples = sum(turn.learn for turn in turns)
    ranked = [len(turn.candidates) for turn in turns if turn.candidates]
    errors = len(result.errors)
    return CheckReport(
        format=result.format,
        dialogues=len(talks),
        skipped=result.skipped,
        turns=examples,
        history_turns=len(turns) - examples,
        personas=len({talk.given for talk in talks if talk.given}),
        turns_with_candidates=len(ranked),
        errors=errors,
        warnings=len(result.problems) - errors,
        codes=dict(Counter(problem.code for problem in result.problems).most_common()),
        persona_sentences=summary([len(talk.given) for talk in talks]),
        turns_per_dialogue=summary([len(talk.turns) for talk in talks]),
        user_words=summary([len(turn.user.split()) for turn in turns]),
        response_words=summary([len((turn.response or "").split()) for turn in turns]),
        candidates=summary(ranked),
    )


def summary(values: Sequence[float]) -> dict[str, float]:
    """Minimum, mean, median, 95th percentile (linear interpolation) and maximum; all 0 for no values.

    >>> summary([1, 2, 3, 4])
    {'min': 1.0, 'mean': 2.5, 'p50': 2.5, 'p95': 3.85, 'max': 4.0}
    """
    import numpy as np

    if not values:
        return dict.fromkeys(("min", "mean", "p50", "p95", "max"), 0.0)
    low, middle, high, top = np.percentile(values, [0, 50, 95, 100])
    found = {"min": low, "mean": np.mean(values), "p50": middle, "p95": high, "max": top}
    return {name: round(float(value), 4) for name, value in found.items()}
