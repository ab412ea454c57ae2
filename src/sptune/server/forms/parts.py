"""The parts that all answers have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sptune.server.schemas.answers import Spt, Usage

if TYPE_CHECKING:
    from sptune.server.replies import Replies


def spt_of(replies: Replies, number: int) -> Spt | None:
    """Which soft prompt spoke in one of the replies; None for the base model."""
    selection, weights = replies.selections[number], replies.weights[number]
    if selection is None:
        return None
    return Spt(
        prompt=selection.prompt,
        scores=list(selection.scores),
        margin=selection.margin,
        weights=None if weights is None else list(weights),
    )


def usage_of(prompts: Sequence[int], completions: Sequence[int]) -> Usage:
    """Tokens that were used.

    Args:
        prompts: of each text that was read once.
        completions: of each reply.
    """
    read, written = sum(prompts), sum(completions)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
