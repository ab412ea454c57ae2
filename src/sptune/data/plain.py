"""Users' text without special tokens: a message must not be able to end a turn or open a system message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import count


class PlainText:
    """Takes special tokens out of texts, in time that grows with the text alone, however its tokens are nested.

    Args:
        tokens: the special tokens; may be none.

    >>> plain = PlainText(["<end>", "<open>"])
    >>> [plain(text) for text in (" a <end>", "<e<end>nd>", "<e<e<end>nd>nd>!")]
    ['a', '', '<e nd>!']
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        tokens = list(filter(None, tokens))
        self._tokens = re.compile(_any_of(tokens) or r"(?!)")  # without tokens: what matches nowhere
        self._gap = next(sign for sign in map(chr, count(ord(" "))) if not any(sign in token for token in tokens))

    def __call__(self, text: str) -> str:
        """`text` without special tokens, surrounding white space and halves of surrogate pairs (`?` stands for those).

        Removing a token can join the halves of another, and removing that the halves of a third. The second time a character that no
        token has stands in the place of what is removed, so nothing can join across it; and between two removals no token was left.
        """
        text = text.encode("utf-8", "replace").decode()  # a terminal or JSON can give half a surrogate pair
        return self._tokens.sub(self._gap, self._tokens.sub("", text)).strip()


def _any_of(words: Iterable[str]) -> str:
    """A regular expression of the longest of `words`; beginnings that they share are compared once, as models have hundreds."""
    tails: dict[str, list[str]] = {}
    for word in words:
        tails.setdefault(word[:1], []).append(word[1:])
    ends_here = tails.pop("", None) is not None
    branches = [re.escape(first) + _any_of(rest) for first, rest in tails.items()]
    if len(branches) == 1 and not ends_here:
        return branches[0]
    return f"(?:{'|'.join(branches)}){'?' * ends_here}" if branches else ""
