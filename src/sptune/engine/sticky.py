"""Sticky selection without a memory: which prompt spoke in the turn before is found by choosing again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sptune.engine.serving import ServingRequest

TURNS = 8  # how far back the choices are made again


def earlier_turns(request: ServingRequest) -> list[ServingRequest]:
    """The requests for the last 8 turns before a sticky one, the earliest first; none in the first turn, and where it is not sticky.

    No conversation is kept, and any replica can answer any turn. So their choices are made again, which costs no run of the model.
    """
    context = request.context
    if context is None or not request.sticky or request.prompt is not None:
        return []
    last = len(context.turns) - 1
    return [replace(request, context=context.context(turn)) for turn in range(max(0, last - TURNS), last)]
