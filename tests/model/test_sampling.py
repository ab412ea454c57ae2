"""The next token: the best one, or a draw that follows the distribution."""

from __future__ import annotations

import pytest
import torch

from sptune.model.sampling import draw_seed, pick, uniform


def picked(probs: torch.Tensor, draws: torch.Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    """A token for each draw from one distribution (V,)."""
    rows = probs.expand(len(draws), -1).clone()
    return pick(rows, temperature=torch.full((len(draws),), temperature), draw=draws, top_p=top_p)


def shares(tokens: torch.Tensor, size: int) -> list[float]:
    return (torch.bincount(tokens, minlength=size) / len(tokens)).tolist()


EVEN = (torch.arange(1000) + 0.5) / 1000  # draws that cover 0..1 evenly
PROBS = torch.tensor([0.1, 0.4, 0.2, 0.3])


def test_draws_follow_the_distribution():
    assert shares(picked(PROBS, EVEN), 4) == pytest.approx(PROBS.tolist(), abs=2e-3)


def test_temperature_sharpens_and_flattens():
    for temperature in (0.5, 2.0):
        wanted = (PROBS.log() / temperature).softmax(0).tolist()
        assert shares(picked(PROBS, EVEN, temperature=temperature), 4) == pytest.approx(wanted, abs=2e-3)
    assert set(picked(PROBS, EVEN, temperature=0.01).tolist()) == {1}  # no underflow to nothing


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, [1]), (0.4, [1]), (0.41, [1, 3]), (0.7, [1, 3]), (0.95, [0, 1, 2, 3])]
)
def test_draws_stay_in_the_nucleus(top_p: float, kept: list[int]):
    nucleus = torch.zeros(4)
    nucleus[kept] = PROBS[kept]
    wanted = (nucleus / nucleus.sum()).tolist()
    assert shares(picked(PROBS, EVEN, top_p=top_p), 4) == pytest.approx(wanted, abs=2e-3)


def test_a_wide_nucleus_is_found_too():
    """More tokens than are looked at first hold its mass."""
    probs = torch.rand(9000, generator=torch.Generator().manual_seed(0))
    tokens = picked(probs, EVEN, top_p=0.9)
    falling = probs.sort(descending=True).values
    least = falling[int((falling.cumsum(0) < 0.9 * probs.sum()).sum())]
    assert bool((probs[tokens] >= least).all())
    assert len(set(tokens.tolist())) > 900


def test_greedy_and_sampled_rows_stand_side_by_side():
    probs = PROBS.expand(3, -1).clone()
    tokens = pick(probs, temperature=torch.tensor([0.0, 1.0, 0.0]), draw=torch.tensor([0.99, 0.01, 0.01]), top_p=1.0)
    assert tokens.tolist() == [1, 0, 1]


def test_what_has_no_probability_is_never_drawn():
    probs = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0])
    ends = torch.tensor([0.0, 0.5, 1.0 - 1e-7])
    for top_p in (0.999, 1.0):
        assert set(picked(probs, ends, top_p=top_p).tolist()) <= {1, 3}


def test_numbers_come_from_the_seed_alone():
    first, second = uniform([3, 4], 5), uniform([4, 3], 5)
    assert torch.equal(first, second.flip(0))
    assert not torch.equal(first[0], first[1])
    seeds = {draw_seed(0, "a", 1), draw_seed(0, "a", 2), draw_seed(0, "b", 1), draw_seed(1, "a", 1), draw_seed(0, "a1")}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
