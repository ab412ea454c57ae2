"""Pure string functions: tokenisation rules, n-grams, text similarity and output cutting.

The one copy of each, shared by the contrastive loss (which personas are alike) and by the metrics. The three
similarities share the scale 0..100, so that a threshold means the same kind of thing for each of them.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal, get_args

from sptune.errors import UsageError

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF

Rule = Literal["whitespace", "parlai", "words"]

# Where the published evaluation ends a reply: a new line, a new speaker, or any colon.
PAPER_STOPS = ("\n", "R:", "Q:", ":")

_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation, " "))
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"\w+(?:'\w+)*")


def tokenize_words(text: str, rule: Rule = "whitespace") -> list[str]:
    """Split `text` into words.

    Args:
        text: any string; may be empty.
        rule: `whitespace`: split on white space and change nothing (the paper's rule).
            `parlai`: lower case, ASCII punctuation to spaces, drop "a", "an", "the", split (as in ParlAI's F1).
            `words`: lower case, keep words with their inner apostrophes, drop punctuation (for untokenised text).

    Returns:
        The words in order; empty for a text without any.

    Raises:
        UsageError: `rule` is none of the three.

    >>> tokenize_words("The cat's  here .")
    ['The', "cat's", 'here', '.']
    >>> tokenize_words("The cat's  here .", "parlai")
    ['cat', 's', 'here']
    >>> tokenize_words("The cat's  here.", "words")
    ['the', "cat's", 'here']
    """
    if rule == "whitespace":
        return text.split()
    if rule == "parlai":
        return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION_TO_SPACE)).split()
    if rule == "words":
        return _WORD.findall(unicodedata.normalize("NFC", text.lower()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    raise UsageError(f"tokenisation rule: {rule!r} is not one of {', '.join(get_args(Rule))}")


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` (at least 1) neighbouring tokens, in order, repetitions included; none where the text is shorter.

    >>> ngrams(["i", "sail", "boats"], 2)
    [('i', 'sail'), ('sail', 'boats')]
    """
    assert n >= 1, n
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


@lru_cache(maxsize=1 << 16)
def sentence_bleu(hypothesis: str, reference: str) -> float:
    """Similarity by sentence BLEU (sacrebleu, 13a tokens, exp smoothing, effective order), 0..100. Not symmetric.

    The default similarity M of the paper's context-prompt contrastive loss, with threshold 20. Cached, since the same
    pairs of personas meet again and again in training. 0 where either text is empty.
    """
    return min(100.0, float(_bleu().sentence_score(hypothesis, [reference]).score))


@lru_cache(maxsize=1 << 16)
def chrf(hypothesis: str, reference: str) -> float:
    """Similarity by chrF2 (sacrebleu; F-score of character n-grams up to 6), 0..100; 0 where one is empty."""
    return min(100.0, float(_chrf().sentence_score(hypothesis, [reference]).score))


def token_jaccard(first: str, second: str) -> float:
    """Similarity by shared words, 0..100: `100 |A & B| / |A | B|` over the sets of white-space tokens. Symmetric.

    0 where either text is empty: nothing is shared.

    >>> token_jaccard("i like cats", "i like dogs")
    50.0
    """
    ours, theirs = set(first.split()), set(second.split())
    return 100.0 * len(ours & theirs) / len(ours | theirs) if ours and theirs else 0.0


def cut_reply(text: str, stops: Sequence[str] = PAPER_STOPS) -> str:
    """The reply in a generated text: everything before the first stop, without surrounding white space.

    The default stops are the paper's; the plain colon also cuts "at 7:30" to "at 7". A text that starts with a stop
    gives an empty reply, which the metrics count as such.

    Args:
        text: what the model generated.
        stops: strings that end a reply; empty to cut nowhere.

    Raises:
        UsageError: one of the stops is the empty string, which would cut everything.

    >>> cut_reply(" i sail . R: and you ?")
    'i sail .'
    """
    if "" in stops:
        raise UsageError("stops: the empty string '' would end every reply at once; remove it (no stops at all: [])")
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))].strip()


@cache
def _bleu() -> BLEU:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics import CHRF

    return CHRF()
