"""Which prompt speaks."""

from __future__ import annotations

import pytest
import torch

from sptune.errors import UsageError
from sptune.model.selection import Selection, margin, select, stay

SCORES = torch.tensor([[0.1, 0.9, 0.4], [0.5, 0.2, 0.5], [0.0, 0.0, 0.0]])


def test_top1_takes_the_best_and_the_first_of_equals():
    assert [chosen.prompt for chosen in select(SCORES)] == [1, 0, 0]


def test_a_selection_carries_scores_and_margin():
    first = select(SCORES)[0]
    assert first.scores == pytest.approx((0.1, 0.9, 0.4))
    assert first.margin == pytest.approx(0.5)
    assert margin(SCORES).tolist() == pytest.approx([0.5, 0.0, 0.0])


def test_a_single_prompt_is_chosen_without_a_margin():
    assert select(torch.tensor([[0.3], [0.7]])) == [
        Selection(0, (pytest.approx(0.3),), 0.0),
        Selection(0, (pytest.approx(0.7),), 0.0),
    ]


def test_a_context_is_selected_for_alone():
    assert select(SCORES) == [select(SCORES[i : i + 1])[0] for i in range(3)]


def test_a_forced_prompt_speaks_whatever_the_scores():
    assert [chosen.prompt for chosen in select(SCORES, prompt=2, rule="sample")] == [2, 2, 2]
    for wrong in (3, -1):
        with pytest.raises(UsageError, match=rf"there is no prompt {wrong}; this adapter has prompts 0 to 2"):
            select(SCORES, prompt=wrong)


def test_samples_follow_the_softmax_of_the_scores_and_the_generator():
    scores = torch.tensor([[0.0, 1.0, -1.0]]).expand(20_000, 3)
    first, again, other = (
        [chosen.prompt for chosen in select(scores, rule="sample", generator=torch.Generator().manual_seed(seed))]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    shares = torch.bincount(torch.tensor(first), minlength=3) / 20_000
    torch.testing.assert_close(shares, scores[0].softmax(0), atol=0.015, rtol=0)


def test_a_random_prompt_does_not_look_at_the_scores():
    scores = torch.tensor([[0.0, 9.0, -1.0]]).expand(6000, 3)
    first, again = (
        [one.prompt for one in select(scores, rule="random", generator=torch.Generator().manual_seed(0))] for _ in "ab"
    )
    assert first == again
    shares = torch.bincount(torch.tensor(first), minlength=3) / 6000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.025, rtol=0)


def test_sticky_selection_stays_until_another_wins_by_the_threshold():
    (before,) = select(torch.tensor([[0.9, 0.1]]))
    (close,) = select(torch.tensor([[0.5, 0.6]]))
    (clear,) = select(torch.tensor([[0.1, 0.6]]))
    assert stay(None, close, threshold=0.2) == close
    kept = stay(before, close, threshold=0.2)
    assert (kept.prompt, kept.scores) == (0, close.scores)
    assert stay(before, clear, threshold=0.2) == clear
    assert stay(before, close, threshold=0.0) == close
    assert stay(clear, close, threshold=0.0).prompt == 1
