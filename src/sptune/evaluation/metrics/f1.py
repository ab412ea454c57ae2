"""Unigram F1 of a reply against its reference."""

from __future__ import annotations

from collections import Counter

from sptune.text import Rule, tokenize_words


def unigram_f1(prediction: str, reference: str, rule: Rule = "whitespace") -> float:
    """Harmonic mean of the precision and the recall of words, in percent: `100 * 2 |P & R| / (|P| + |R|)`.

    P and R are multi-sets: a word counts as often as it occurs in both. The paper splits on white space (`whitespace`);
    ParlAI normalises first (`parlai`). Source: paper, metrics.

    Args:
        prediction: the reply.
        reference: the gold response.
        rule: how to split into words.

    Returns:
        0..100; 0 where either has no words.

    Two of four and of three words shared: 100 * 2 * 2 / (4 + 3) = 57.142857.

    >>> round(unigram_f1("i like my boat", "i like cats"), 6)
    57.142857
    """
    predicted, gold = Counter(tokenize_words(prediction, rule)), Counter(tokenize_words(reference, rule))
    shared = (predicted & gold).total()
    return 100.0 * 2.0 * shared / (predicted.total() + gold.total()) if shared else 0.0
