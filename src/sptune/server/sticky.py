"""Sticky selection without a memory: which prompt spoke in the turn before is found by choosing again."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sptune.engine.serving import ServingEngine, ServingRequest
    from sptune.model.selection import Selection

TURNS = 8  # how far back the choices are made again


async def stuck_to(engine: ServingEngine, request: ServingRequest) -> int | None:
    """The prompt that sticky selection gave the turn before; None in the first turn.

    The server keeps no conversation, and any replica can answer any turn. So the choices of the last 8 turns are made
    again from their contexts, which costs no run of the model.

    Args:
        engine: chooses.
        request: has a context, an adapter and a threshold.

    Raises:
        SptError: as `ServingEngine.select`.
    """
    from sptune.model.selection import stay

    context = request.context
    assert context is not None
    last = len(context.turns) - 1
    earlier = [replace(request, context=context.context(turn)) for turn in range(max(0, last - TURNS), last)]
    if not earlier:
        return None

    def choose(before: Selection | None, now: Selection) -> Selection:
        return stay(before, now, threshold=request.threshold)

    kept = reduce(choose, await engine.select(earlier), None)
    return None if kept is None else kept.prompt
