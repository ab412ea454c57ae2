"""BLEU by sacrebleu: replies against their references, and replies against one another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Self-BLEU rises with the number of texts compared, so figures are comparable only for one sample size.
SELF_BLEU_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class CorpusBleu:
    """A corpus BLEU score (0..100) and sacrebleu's signature, which says how it was computed."""

    score: float
    signature: str


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> CorpusBleu:
    """Corpus BLEU of replies against one reference each (sacrebleu's defaults: 13a tokens, mixed case, exp smoothing).

    `BLEU = 100 BP exp(1/4 sum_n log p_n)` with n-gram precisions p_1..p_4 pooled over the corpus; not the mean of
    sentence scores. Empty replies stay in: they shorten the output and so lower the brevity penalty BP.
    Source: Papineni et al. 2002; paper, metrics.

    Args:
        predictions: the replies, at least one.
        references: the gold responses, as many.

    Returns:
        The score, 0..100, and the signature with the version of sacrebleu.
    """
    from sacrebleu.metrics import BLEU

    # force: ConvAI2 is spaced out already, and sacrebleu would warn about it; the score is the same
    bleu = BLEU(force=True)
    score = float(bleu.corpus_score(list(predictions), [list(references)]).score)
    return CorpusBleu(min(100.0, score), str(bleu.get_signature()))


def self_bleu(texts: Sequence[str], *, sample: int = SELF_BLEU_SAMPLE, seed: int = 0) -> float:
    """How alike replies are: the mean sentence BLEU of each of a sample against all others of it (Zhu et al. 2018).

    Args:
        texts: the replies.
        sample: how many to draw without replacement (at least 2); the cost grows with its square.
        seed: of the draw. The draw does not depend on the order of `texts`.

    Returns:
        0..100, lower is more diverse; 0 with fewer than two texts. An empty reply is like no other: it scores 0.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        return 0.0
    drawn = random.Random(seed).sample(sorted(texts), min(sample, len(texts)))
    bleu = BLEU(effective_order=True)
    scores = (bleu.sentence_score(text, drawn[:at] + drawn[at + 1 :]).score for at, text in enumerate(drawn))
    return min(100.0, float(sum(scores)) / len(drawn))
