"""A reply that is being generated: its pieces, its own random numbers, and the tokens that are forbidden to it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from sptune.engine.reply_pieces import ReplyPieces
from sptune.engine.serving import Piece, TokenLogprob
from sptune.model.ngrams import completions
from sptune.model.sampling import draw_seed, uniform
from sptune.model.token_text import TokenText

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.engine.prepared import Prepared


class Reply(ReplyPieces):
    """One row of a batch.

    Args:
        prepared: what is answered.
    """

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared)
        decoding = prepared.decoding
        seed = secrets.randbits(62) if decoding.seed is None else draw_seed(decoding.seed, 0)  # as one context alone
        self._token_text = TokenText(prepared.model.encoder.tokenizer)
        self._draws = uniform([seed], decoding.max_new_tokens)[0].tolist() if decoding.temperature else None

    @property
    def draw(self) -> float:
        """The number in 0..1 that the next token is drawn with."""
        return self._draws[len(self.tokens)] if self._draws else 0.0

    def banned(self) -> set[int]:
        """Tokens that would repeat what must not be repeated."""
        decoding = self.prepared.decoding
        own = completions(self.tokens, [self.tokens], decoding.no_repeat_ngram_size)
        return own | completions(self.tokens, self.prepared.said, decoding.no_repeat_history_ngram)

    def take(self, token: int, logits: Tensor) -> Piece | None:
        """Take the next token: a piece to be shown, or None while all of it is held back.

        Args:
            token: its id.
            logits: (V,) that it was chosen from.
        """
        count = self.prepared.logprobs
        if count is None or token in self.prepared.ends:
            return self.say(token)
        return self.say(token, (self._logprob(token, logits, count),))

    def _logprob(self, token: int, logits: Tensor, count: int) -> TokenLogprob:
        logprobs = logits.float().log_softmax(0)
        best = logprobs.topk(min(count, len(logprobs)))
        top = [
            TokenLogprob(self._token_text(k), value)
            for k, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return TokenLogprob(self._token_text(token), float(logprobs[token]), tuple(top))
