"""Use of the persona: how much of it replies bring up, and how much they copy word for word."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

from sptune.text import Rule, ngrams, tokenize_words

Persona = tuple[str, ...]


def content_words(text: str) -> frozenset[str]:
    """The words of `text` that carry meaning: two letters or more, no contraction, no stop word of scikit-learn's list.

    A possessive counts as its noun. Lower case.

    >>> sorted(content_words("I don't like my dog's old toys."))
    ['dog', 'like', 'old', 'toys']
    """
    words = (word.removesuffix("'s") for word in tokenize_words(text, "words"))
    return frozenset(word for word in words if len(word) > 1 and "'" not in word and word not in _stop_words())


def persona_recall(texts: Sequence[str], personas: Sequence[Persona]) -> float:
    """How much of its persona a reply brings up, in percent: the mean of `100 * sum_{P & R} idf(w) / sum_{P} idf(w)`.

    P are the content words of a persona's sentences and R those of the reply. With d(w) of the D distinct personas
    given holding the word, `idf(w) = ln((1 + D) / (1 + d(w))) + 1`: rare words weigh more and none weighs nothing.

    Args:
        texts: the replies.
        personas: the persona of each reply.

    Returns:
        0..100: the mean over the replies whose persona has content words; 0 where none has. A natural reply uses one or
        two sentences of its persona, so that human responses score low too: read it beside theirs.

    Two personas {"dog", "old"} and {"dog", "boat"}: idf(dog) = ln(3/3) + 1 = 1 and idf(old) = idf(boat) = ln(3/2) + 1
    = 1.405465. The first reply recalls 1 of 2.405465, the second nothing: 100 * (0.415720 + 0) / 2 = 20.786000.

    >>> round(persona_recall(["a dog !", "hi"], [("my dog is old",), ("my dog has a boat",)]), 4)
    20.786
    """
    words = {persona: found for persona in set(personas) if (found := content_words(" ".join(persona)))}
    frequency = Counter(word for found in words.values() for word in found)
    idf = {word: math.log((1 + len(words)) / (1 + count)) + 1.0 for word, count in frequency.items()}
    recalls = [
        math.fsum(idf[word] for word in wanted & content_words(text)) / math.fsum(idf[word] for word in wanted)
        for text, persona in zip(texts, personas, strict=True)
        if (wanted := words.get(persona))
    ]
    return 100.0 * math.fsum(recalls) / len(recalls) if recalls else 0.0


def copy_rate(texts: Sequence[str], personas: Sequence[Persona], n: int = 4, rule: Rule = "whitespace") -> float:
    """How much replies copy, in percent: of all n-grams of all replies, those in a sentence of their own persona.

    Args:
        texts: the replies.
        personas: the persona of each reply.
        n: length of the n-grams; shorter runs in common are not copying.
        rule: how to split into words.

    Returns:
        0..100; 0 where no reply has n words.

    Of "i like my old dog" (two 4-grams) and "and i swim every day" (two) one is copied: 25.

    >>> copy_rate(["i like my old dog", "and i swim every day"], [("i like my old cat",)] * 2)
    25.0
    """
    known = {
        persona: {gram for sentence in persona for gram in ngrams(tokenize_words(sentence, rule), n)}
        for persona in set(personas)
    }
    copied = total = 0
    for text, persona in zip(texts, personas, strict=True):
        grams = ngrams(tokenize_words(text, rule), n)
        total += len(grams)
        copied += sum(gram in known[persona] for gram in grams)
    return 100.0 * copied / total if total else 0.0


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
