"""Diversity of replies: over the corpus (DIST, its length-adjusted form, entropy, unique replies) and within each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from sptune.text import Rule, ngrams, tokenize_words

# V of the expectation-adjusted DIST: the size of BERT's vocabulary. Constant, so that runs and splits compare.
EAD_VOCABULARY = 30522


def distinct(texts: Sequence[str], n: int, rule: Rule = "whitespace") -> float:
    """DIST-n in percent: `100 * N / C` with N distinct n-grams among C n-grams of all texts together.

    Source: Li et al. 2016; paper, metrics. N grows more slowly than C, so DIST rises as texts get shorter or fewer:
    compare it only between equal numbers of replies, and beside their length.

    Args:
        texts: the replies.
        n: length of the n-grams.
        rule: how to split into words.

    Returns:
        0..100; 0 where there are no n-grams.

    Three distinct words of four: 75.

    >>> distinct(["i sail", "i swim"], 1)
    75.0
    """
    counts = _count(texts, n, rule)
    return 100.0 * len(counts) / counts.total() if counts else 0.0


def expectation_adjusted_distinct(
    texts: Sequence[str], n: int, rule: Rule = "whitespace", *, vocabulary: int = EAD_VOCABULARY
) -> float:
    """Expectation-adjusted DIST-n in percent: `100 * N / (V (1 - ((V - 1) / V)^C))`.

    N distinct n-grams of C are divided by the number expected of C draws from V equally likely ones, so that long and
    short corpora compare more fairly than by DIST. Source: Liu et al. 2022 (Rethinking the Distinct Metric).

    Args:
        texts: the replies.
        n: length of the n-grams.
        rule: how to split into words.
        vocabulary: V, at least 2; the same for all n.

    Returns:
        0 and up; usually below 100, but it can exceed 100 where C is far larger than V.

    N = 3, C = 4, V = 5: the expectation is 5 (1 - 0.8^4) = 2.952, and 300 / 2.952 = 101.626016.

    >>> round(expectation_adjusted_distinct(["i sail", "i swim"], 1, vocabulary=5), 6)
    101.626016
    """
    counts = _count(texts, n, rule)
    expected = -vocabulary * math.expm1(counts.total() * math.log1p(-1.0 / vocabulary))
    return 100.0 * len(counts) / expected if counts else 0.0


def ngram_entropy(texts: Sequence[str], n: int = 4, rule: Rule = "whitespace") -> float:
    """Entropy-n in nats: `-sum_w p(w) ln p(w)` over the n-grams w of all texts together (Zhang et al. 2018).

    Args:
        texts: the replies.
        n: length of the n-grams.
        rule: how to split into words.

    Returns:
        0..ln C for C n-grams; 0 where there are none. It grows with the corpus.

    Frequencies 2/4, 1/4, 1/4: ln 2 / 2 + ln 4 / 2 = 1.039721.

    >>> round(ngram_entropy(["i sail", "i swim"], 1), 6)
    1.039721
    """
    counts = _count(texts, n, rule)
    total = counts.total()
    return math.fsum(count / total * math.log(total / count) for count in counts.values())


def unique_share(texts: Sequence[str]) -> float:
    """Distinct replies of all replies, in percent; white space does not tell replies apart. 0 without replies.

    >>> unique_share(["i sail", "i  sail", "me too", "no"])
    75.0
    """
    return 100.0 * len({" ".join(text.split()) for text in texts}) / len(texts) if texts else 0.0


def repetition(texts: Sequence[str], n: int = 3, rule: Rule = "whitespace") -> float:
    """How much replies repeat themselves, in percent: the mean of `1 - distinct / all` n-grams of each reply.

    Known as seq-rep-n (Welleck et al. 2020). A reply without n-grams repeats nothing and counts as 0.

    Args:
        texts: the replies.
        n: length of the n-grams.
        rule: how to split into words.

    Returns:
        0..100, lower is better; 0 without replies.

    "no no no no" has the 3-gram "no no no" twice: half of it is repetition; the other reply has none.

    >>> repetition(["no no no no", "i sail"])
    25.0
    """
    shares = [1.0 - len(set(grams)) / len(grams) for text in texts if (grams := ngrams(tokenize_words(text, rule), n))]
    return 100.0 * math.fsum(shares) / len(texts) if texts else 0.0


def _count(texts: Sequence[str], n: int, rule: Rule) -> Counter[tuple[str, ...]]:
    return Counter(gram for text in texts for gram in ngrams(tokenize_words(text, rule), n))
