"""The text of a reply while its tokens come: decoded piece by piece, held back where it may be a stop, cut at one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sptune.engine.local import settled_text
from sptune.model.token_text import anchor, decode
from sptune.text import cut_reply

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows for a character whose last bytes are still to come


class ReplyText:
    """Grows token by token. What `grown` and `end` return, joined, is the reply.

    Args:
        tokenizer: of the base model.
        stops: texts that end the reply and are no part of it.
        raw: a text is continued, so white space at both ends belongs to the reply; else it is left out, as in a chat.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], *, raw: bool = False) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._raw = raw
        self._text = ""  # of all tokens, the last ones left out while they end within a character
        self._unread = ""  # of those last ones
        self._tokens = anchor(tokenizer) if raw else []
        self._before, self._read = (
            0,
            len(self._tokens),
        )  # tokens[before:read] were read last; they show how those after them join on
        self._shown = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop was said."""
        return any(stop in self._text for stop in self._stops)

    def add(self, token: int) -> None:
        """Take the next token."""
        self._tokens.append(token)
        known = decode(self._tokenizer, self._tokens[self._before : self._read])
        now = decode(self._tokenizer, self._tokens[self._before :])
        self._unread = now[len(known) :]
        if self._unread and not self._unread.endswith(_UNFINISHED):
            self._text += self._unread
            self._unread = ""
            self._before, self._read = self._read, len(self._tokens)

    def grown(self) -> str:
        """What the reply has grown by that nothing later can take back."""
        settled = settled_text(self._text, self._stops)
        if self._raw and settled:
            settled = self._text[: len(self._text) - len(self._text.lstrip())] + settled
        return self._show(settled)

    def end(self) -> str:
        """What the reply has grown by, now that it has ended."""
        whole = self._text + self._unread
        if not self._raw:
            return self._show(cut_reply(whole, stops=self._stops))
        ends = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        return self._show(whole[: min(ends, default=len(whole))])

    def _show(self, text: str) -> str:
        fresh = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return fresh
