"""A reply that is being generated: its tokens, its text, its own random numbers, and why it ends."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from sptune.engine.reply_text import ReplyText
from sptune.engine.serving import Piece, TokenLogprob
from sptune.model.ngrams import completions
from sptune.model.sampling import draw_seed, uniform

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.engine.prepared import Prepared
    from sptune.engine.serving import Finish


class Reply:
    """One row of a batch.

    Args:
        prepared: what is answered.

    Attributes:
        finish: why it ended; None while it goes on.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.finish: Finish | None = None
        decoding = prepared.decoding
        self._tokens: list[int] = []
        self._text = ReplyText(prepared.model.encoder.tokenizer, prepared.stops, raw=prepared.raw)
        seed = secrets.randbits(62) if decoding.seed is None else draw_seed(decoding.seed, 0)  # as one context alone
        self._draws = uniform([seed], decoding.max_new_tokens)[0].tolist() if decoding.temperature else None

    @property
    def draw(self) -> float:
        """The number in 0..1 that the next token is drawn with."""
        return self._draws[len(self._tokens)] if self._draws else 0.0

    def banned(self) -> set[int]:
        """Tokens that would repeat what must not be repeated."""
        decoding = self.prepared.decoding
        own = completions(self._tokens, [self._tokens], decoding.no_repeat_ngram_size)
        return own | completions(self._tokens, self.prepared.said, decoding.no_repeat_history_ngram)

    def take(self, token: int, logits: Tensor) -> Piece | None:
        """Take the next token: a piece to be shown, or None while all of it is held back.

        Args:
            token: its id.
            logits: (V,) that it was chosen from.
        """
        if token in self.prepared.ends:
            self.finish = "stop"
            return Piece(self._text.end(), len(self._tokens), finish="stop")
        self._tokens.append(token)
        self._text.add(token)
        logprobs = () if self.prepared.logprobs is None else (self._logprob(token, logits, self.prepared.logprobs),)
        if self._text.stopped:
            self.finish = "stop"
        elif len(self._tokens) == self.prepared.decoding.max_new_tokens:
            self.finish = "length"
        text = self._text.end() if self.finish else self._text.grown()
        return Piece(text, len(self._tokens), logprobs, self.finish) if text or logprobs or self.finish else None

    def _logprob(self, token: int, logits: Tensor, count: int) -> TokenLogprob:
        logprobs = logits.float().log_softmax(0)
        best = logprobs.topk(min(count, len(logprobs)))
        decode = self.prepared.model.decode
        top = [
            TokenLogprob(decode([k]), value)
            for k, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return TokenLogprob(decode([token]), float(logprobs[token]), tuple(top))
