"""Turns share a batch as far as its tokens go."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sptune.data.dialogue import Dialogue
from sptune.evaluation.batches import padded_batches, sharing_batches
from sptune.evaluation.turns import ChosenTurn, choose_prompts
from sptune.model.spt import SPTModel


@pytest.fixture(scope="module")
def turns(tiny_model: Callable[..., SPTModel], dialogues: tuple[Dialogue, ...]) -> list[ChosenTurn]:
    return choose_prompts(tiny_model(), dialogues)


@pytest.mark.parametrize("budget", [1, 300, 800, 10**6])
def test_every_turn_once_in_order_and_within_the_budget(turns: list[ChosenTurn], budget: int) -> None:
    order = list(range(len(turns)))
    sharing = list(sharing_batches(turns, order, runs=2, prompt=4, new=10, budget=budget))
    padded = list(padded_batches(turns, order, rows=2, room=14, budget=budget))
    for batches in (sharing, padded):
        assert [n for batch in batches for n in batch] == order
    for batch in sharing:
        runs = {id(turns[n].sequence): 4 + turns[n].span.context_length for n in batch}  # the last is the longest
        assert len(batch) == 1 or 2 * sum(runs.values()) + 10 * len(batch) <= budget
    for batch in padded:
        longest = max(turns[n].span.context_length for n in batch)
        assert len(batch) == 1 or 2 * len(batch) * (14 + longest) <= budget
    assert (len(sharing) == len(padded) == 13) == (budget == 1)
    assert (len(sharing) == len(padded) == 1) == (budget == 10**6)


def test_turns_of_one_sequence_cost_one_run(turns: list[ChosenTurn]) -> None:
    talk = [n for n, turn in enumerate(turns) if turn.dialogue.id == "archivist"]
    budget = 4 + turns[talk[-1]].span.context_length + 7 * 5
    assert list(sharing_batches(turns, talk, runs=1, prompt=4, new=5, budget=budget)) == [talk]
    assert len(list(sharing_batches(turns, talk, runs=1, prompt=4, new=5, budget=budget - 1))) == 2
    assert len(list(padded_batches(turns, talk, rows=1, room=9, budget=budget))) > 3
