"""Batches by token budget."""

from __future__ import annotations

import numpy as np
import pytest

from sptune.data.packing import TokenBudgetSampler

LENGTHS = np.random.default_rng(3).integers(20, 400, 203).tolist()


def epoch(sampler: TokenBudgetSampler, number: int) -> list[list[int]]:
    sampler.set_epoch(number)
    return list(sampler)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("budget", [1, 400, 1000, 5000, 10**9])
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[:3], [7], [50] * 30, []])
def test_every_sequence_comes_once_an_epoch(lengths, budget, shuffle):
    sampler = TokenBudgetSampler(lengths, budget=budget, shuffle=shuffle)
    for number in range(3):
        batches = epoch(sampler, number)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        assert len(batches) == len(sampler)
        assert all(batches)


@pytest.mark.parametrize("budget", [400, 1000, 5000])
def test_no_batch_is_over_budget_after_padding(budget):
    for batch in TokenBudgetSampler(LENGTHS, budget=budget):
        assert len(batch) * max(LENGTHS[index] for index in batch) <= budget


def test_a_sequence_longer_than_the_budget_is_alone():
    for batch in TokenBudgetSampler(LENGTHS, budget=100):
        assert len(batch) == 1 or len(batch) * max(LENGTHS[index] for index in batch) <= 100
    assert max(LENGTHS) > 100


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler = TokenBudgetSampler(LENGTHS, budget=1000, seed=5)
    later, first = epoch(sampler, 4), epoch(sampler, 0)
    again = TokenBudgetSampler(LENGTHS, budget=1000, seed=5)
    assert epoch(again, 0) == first
    assert epoch(again, 4) == later
    assert later != first
    assert epoch(TokenBudgetSampler(LENGTHS, budget=1000, seed=6), 0) != first


def test_which_sequences_meet_changes_from_epoch_to_epoch():
    sampler = TokenBudgetSampler(LENGTHS, budget=2000)
    groups = [{frozenset(batch) for batch in epoch(sampler, number)} for number in range(2)]
    assert len(groups[0] & groups[1]) < len(groups[0]) / 2


def test_similar_lengths_meet():
    padded = sum(
        len(batch) * max(LENGTHS[index] for index in batch) for batch in TokenBudgetSampler(LENGTHS, budget=2000)
    )
    assert padded < 1.3 * sum(LENGTHS)


def test_without_shuffling_every_epoch_is_the_same_and_by_length():
    sampler = TokenBudgetSampler(LENGTHS, budget=1000, shuffle=False)
    assert epoch(sampler, 0) == epoch(sampler, 1)
    order = [LENGTHS[index] for batch in sampler for index in batch]
    assert order == sorted(order)
