"""What tokens spell behind other text: decoders of SentencePiece drop the space that begins the first token they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """All the text that tokens spell, special ones aside. More tokens only add to it."""
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def anchor(tokenizer: Any) -> list[int]:
    """Tokens of a letter. Behind them, others keep their space."""
    tokens: list[int] = tokenizer.encode("a", add_special_tokens=False)
    return tokens


class TokenText:
    """Tells what one token adds to a text, its space included.

    Args:
        tokenizer: of the base model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._anchor = anchor(tokenizer)
        self._length = len(decode(tokenizer, self._anchor))

    def __call__(self, token: int) -> str:
        """Its text; holds U+FFFD where it is a part of a character."""
        return decode(self._tokenizer, [*self._anchor, token])[self._length :]
