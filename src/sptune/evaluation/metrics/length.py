"""How long replies are, and how many are empty."""

from __future__ import annotations

from collections.abc import Sequence

from sptune.text import Rule, tokenize_words


def mean_words(texts: Sequence[str], rule: Rule = "whitespace") -> float:
    """Mean number of words a reply, 0 and up; empty replies count as 0 words.

    >>> mean_words(["i sail .", ""])
    1.5
    """
    return sum(len(tokenize_words(text, rule)) for text in texts) / len(texts) if texts else 0.0


def count_empty(texts: Sequence[str]) -> int:
    """Number of replies that are empty or hold white space only.

    >>> count_empty(["i sail", "", " \\n"])
    2
    """
    return sum(not text.strip() for text in texts)
