"""Corpus metrics as functions of rows, for the bootstrap: counted once, then cheap for any set of replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sptune.text import Rule, ngrams, tokenize_words

# The rows (indices of replies, repetitions allowed) -> the metric of these replies.
CorpusScore = Callable[[NDArray[np.intp]], float]

# Metrics that count different n-grams, to which a row that is there twice adds nothing.
DISTINCT_METRICS = frozenset({"dist1", "dist2", "ead1", "ead2"})


def bleu_of_rows(predictions: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """Corpus BLEU (0..100) of chosen rows, from sacrebleu's counts of each reply; as `bleu.corpus_bleu`.

    Args:
        predictions: the replies.
        references: the gold responses, as many.

    Returns:
        A function of rows; of all rows it gives the corpus BLEU.
    """
    from sacrebleu.metrics import BLEU

    counter = BLEU(effective_order=True)  # only its counts are used, and these do not depend on the order
    scored = [counter.sentence_score(text, [gold]) for text, gold in zip(predictions, references, strict=True)]
    counts = np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scored])  # (n, 10)

    def score(rows: NDArray[np.intp]) -> float:
        sys_len, ref_len, *rest = counts[rows].sum(axis=0).tolist()
        return float(BLEU.compute_bleu(rest[:4], rest[4:], sys_len, ref_len, smooth_method="exp").score)

    return score


def distinct_of_rows(texts: Sequence[str], n: int, rule: Rule = "whitespace") -> CorpusScore:
    """DIST-n (percent) of chosen rows; as `diversity.distinct`.

    Args:
        texts: the replies.
        n: length of the n-grams.
        rule: how to split into words.

    Returns:
        A function of rows; of all rows it gives DIST-n of the corpus.
    """
    number: dict[tuple[str, ...], int] = {}
    rows_of_ids = [
        np.array(
            [number.setdefault(gram, len(number)) for gram in ngrams(tokenize_words(text, rule), n)], dtype=np.intp
        )
        for text in texts
    ]

    def score(rows: NDArray[np.intp]) -> float:
        ids = np.concatenate([rows_of_ids[row] for row in rows] or [np.empty(0, np.intp)])
        seen = np.zeros(len(number), dtype=bool)
        seen[ids] = True
        return 100.0 * float(seen.sum()) / len(ids) if len(ids) else 0.0

    return score
