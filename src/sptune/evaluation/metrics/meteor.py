"""METEOR of replies against their references, by nltk, where its WordNet data is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sptune.text import Rule, tokenize_words

MISSING = "nltk's WordNet data is not installed, or not all of it; get it once with `python -m nltk.downloader wordnet`"


class WordNet(Protocol):
    """The part of nltk's WordNet reader that METEOR uses: the synonym sets of a word."""

    def synsets(self, word: str, /) -> Sequence[Any]:
        """Synonym sets; each has `lemmas()`, and each lemma has `name()`."""


def find_wordnet() -> WordNet | None:
    """nltk's WordNet reader, or None where its data is not on this machine. Never downloads anything."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError):  # absent, or there in part
        return None
    reader: WordNet = wordnet
    return reader


def meteor(prediction: str, reference: str, wordnet: WordNet, rule: Rule = "whitespace") -> float:
    """METEOR (nltk, alpha 0.9, beta 3, gamma 0.5), in percent: words aligned by form, by Porter stem, then by synonym.

    `100 * (1 - gamma (chunks / matches)^beta) * PR / (alpha P + (1 - alpha) R)`. Source: Lavie and Agarwal 2007.
    Because of the fragmentation penalty an identical reply of m words scores `100 (1 - 0.5 / m^3)`, not 100.

    Args:
        prediction: the reply.
        reference: the gold response.
        wordnet: where synonyms come from; see `find_wordnet`.
        rule: how to split into words (nltk lower-cases them).

    Returns:
        0..100; 0 where nothing matches or either text is empty.
    """
    from nltk.translate.meteor_score import single_meteor_score

    words, gold = tokenize_words(prediction, rule), tokenize_words(reference, rule)
    return 100.0 * float(single_meteor_score(gold, words, wordnet=wordnet))
