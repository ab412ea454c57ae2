"""The pieces that a reply is told in: what its tokens spell, and why it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sptune.engine.reply_text import ReplyText
from sptune.engine.serving import Piece, TokenLogprob

if TYPE_CHECKING:
    from sptune.engine.prepared import Prepared
    from sptune.engine.serving import Finish


class ReplyPieces:
    """A reply that grows token by token.

    Args:
        prepared: what is answered.

    Attributes:
        tokens: so far, without an end token.
        finish: why it ended; None while it goes on.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.tokens: list[int] = []
        self.finish: Finish | None = None
        self._text = ReplyText(prepared.model.encoder.tokenizer, prepared.stops, raw=prepared.raw)

    def say(self, token: int, logprobs: tuple[TokenLogprob, ...] = ()) -> Piece | None:
        """Take the next token, unless the reply has ended: a piece to be shown, or None while all of it is held back.

        Args:
            token: its id.
            logprobs: its own, where they were asked for; an end token's are left out.
        """
        if token in self.prepared.ends:
            return self.end("stop")
        self.tokens.append(token)
        self._text.add(token)
        if self._text.stopped:
            return self.end("stop", logprobs)
        if len(self.tokens) == self.prepared.decoding.max_new_tokens:
            return self.end("length", logprobs)
        text = self._text.grown()
        return Piece(text, len(self.tokens), logprobs) if text or logprobs else None

    def end(self, finish: Finish, logprobs: tuple[TokenLogprob, ...] = ()) -> Piece:
        """The last piece."""
        self.finish = finish
        return Piece(self._text.end(), len(self.tokens), logprobs, finish)
