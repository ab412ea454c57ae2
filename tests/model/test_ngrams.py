"""Tokens that would repeat an n-gram."""

from __future__ import annotations

import pytest

from sptune.model.ngrams import completions

SAID = [[1, 2, 3, 1, 2, 4], [5, 1, 2]]


@pytest.mark.parametrize(
    ("tokens", "n", "wanted"),
    [
        ([9, 1, 2], 3, {3, 4}),
        ([1], 2, {2}),
        ([2, 1], 3, set()),
        ([], 1, {1, 2, 3, 4, 5}),
        ([1], 3, set()),  # too short to be the beginning of one
        ([1, 2], 0, set()),
        ([1, 2, 3, 1], 5, {2}),
        ([1, 2, 3, 1], 7, set()),  # longer than what was said
    ],
)
def test_completions_of_what_was_said(tokens: list[int], n: int, wanted: set[int]):
    assert completions(tokens, SAID, n) == wanted
