"""Which next tokens would repeat an n-gram."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def completions(tokens: Sequence[int], texts: Iterable[Sequence[int]], n: int) -> set[int]:
    """The tokens that, put behind `tokens`, would complete an n-gram that one of `texts` holds.

    Args:
        tokens: what was said so far.
        texts: where the n-grams come from.
        n: their length; 0 is no rule.

    >>> sorted(completions([7, 1, 2], [[1, 2, 3], [0, 1, 2, 4]], 3))
    [3, 4]
    """
    if n == 0 or len(tokens) < n - 1:
        return set()
    last = list(tokens[len(tokens) - n + 1 :])
    return {
        text[start + n - 1]
        for text in texts
        for start in range(len(text) - n + 1)
        if list(text[start : start + n - 1]) == last
    }
