"""Which turns are answered together: those of one dialogue, where they share the run over their contexts, or those of a length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sptune.evaluation.turns import ChosenTurn


def sharing_batches(
    turns: Sequence[ChosenTurn], order: Sequence[int], *, runs: int, prompt: int, new: int, budget: int
) -> Iterator[list[int]]:
    """`order` in batches of turns that share runs: each sequence counts once for every run, up to its longest context.

    Args:
        turns: what `order` counts.
        order: numbers of turns, those of one sequence together.
        runs: prompts that a sequence is run under.
        prompt: virtual tokens of a prompt.
        new: the most tokens that are generated for a turn, all its replies and prompts included.
        budget: the most tokens of a batch; a turn that needs more is alone.

    Yields:
        Numbers of turns.
    """
    batch: list[int] = []
    longest: dict[int, int] = {}  # of each sequence in the batch
    for n in order:
        key, length = id(turns[n].sequence), turns[n].span.context_length
        wider = {**longest, key: max(length, longest.get(key, 0))}
        if batch and runs * sum(prompt + size for size in wider.values()) + (len(batch) + 1) * new > budget:
            yield batch
            batch, wider = [], {key: length}
        batch.append(n)
        longest = wider
    if batch:
        yield batch


def padded_batches(
    turns: Sequence[ChosenTurn], order: Sequence[int], *, rows: int, room: int, budget: int
) -> Iterator[list[int]]:
    """`order` in batches of rows that are as long as the longest of them.

    Args:
        turns: what `order` counts.
        order: numbers of turns, best by length.
        rows: of each turn.
        room: virtual and new tokens of a row.
        budget: the most tokens of a batch, padding included; a turn that needs more is alone.

    Yields:
        Numbers of turns.
    """
    batch: list[int] = []
    for n in order:
        longest = max(turns[m].span.context_length for m in (*batch, n))
        if batch and (len(batch) + 1) * rows * (room + longest) > budget:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
