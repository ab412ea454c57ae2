"""p-values of several tests of one question, corrected so that chance seldom makes even one of them significant."""

from __future__ import annotations

from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values, 0..1: the i-th smallest of m becomes `max_{j <= i} (m - j + 1) p_j`, at most 1 (Holm 1979).

    Args:
        p_values: name -> p-value.

    Returns:
        name -> adjusted p-value, in the same order.

    Three tests: 3 * 0.01, then 2 * 0.03, and the last is no smaller than the one before.

    >>> {name: round(p, 4) for name, p in holm({"a": 0.01, "b": 0.05, "c": 0.03}).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}
