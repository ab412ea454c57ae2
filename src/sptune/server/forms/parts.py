"""The parts that all answers have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sptune.server.schemas.answers import Spt, Usage

if TYPE_CHECKING:
    from sptune.model.selection import Selection


def spt_of(selection: Selection | None) -> Spt | None:
    """Which soft prompt spoke; None for the base model."""
    if selection is None:
        return None
    return Spt(prompt=selection.prompt, scores=list(selection.scores), margin=selection.margin)


def usage_of(prompts: Sequence[int], completions: Sequence[int]) -> Usage:
    """Tokens that were used.

    Args:
        prompts: of each text that was read once.
        completions: of each reply.
    """
    read, written = sum(prompts), sum(completions)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
