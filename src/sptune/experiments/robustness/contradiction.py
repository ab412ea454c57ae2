"""The opposite of a persona sentence."""

from __future__ import annotations

import re

_CONTRACTED = re.compile(r"\b(\w+)n't\b|\bcannot\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:do |does |did )?(?:not|never|no) ", re.IGNORECASE)
_AUXILIARY = re.compile(
    r"\b(am|is|are|was|were|can|could|will|would|should|must|i'm|it's|he's|she's|we're|they're|i'll|i'd)(?= )",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"\b(i|we|they) (have|like|love|work|live|enjoy|want|play|eat|hate|own|drive|go|read|make|know|speak|study|drink)\b",
    re.IGNORECASE,
)
_IRREGULAR = {"can": "can", "ca": "can", "wo": "will", "sha": "shall"}


def contradict(sentence: str) -> str:
    """A sentence that cannot be true where `sentence` is: English by rule, `it is not true that ...` where no rule fits.

    >>> [contradict(s) for s in ("i am a nurse .", "i have two dogs .", "i don't swim .", "my boat sank .")]
    ['i am not a nurse .', 'i do not have two dogs .', 'i do swim .', 'it is not true that my boat sank .']
    """
    if found := _CONTRACTED.search(sentence):
        stem = (found[1] or "can").lower()
        return sentence[: found.start()] + _IRREGULAR.get(stem, stem) + sentence[found.end() :]
    if _NEGATION.search(sentence):
        return _NEGATION.sub("", sentence, count=1)
    for pattern, opposite in ((_AUXILIARY, r"\1 not"), (_VERB, r"\1 do not \2")):
        if pattern.search(sentence):
            return pattern.sub(opposite, sentence, count=1)
    return f"it is not true that {sentence}"
