"""`text_completion`, whole and in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sptune.server.forms.parts import spt_of, usage_of
from sptune.server.schemas.answers import Completion, CompletionChoice, CompletionLogprobs, Spt, Usage

if TYPE_CHECKING:
    from pydantic import BaseModel

    from sptune.engine.serving import Piece, TokenLogprob
    from sptune.server.replies import Replies


class CompletionForm:
    """Continuations of texts.

    Args:
        name: id of the answer.
        replies: what is answered: the continuations of the first text, then those of the second, and so on.
        per_text: continuations of each text.
        logprobs: whether log-probabilities were asked for.
    """

    def __init__(self, name: str, replies: Replies, *, per_text: int, logprobs: bool) -> None:
        self._name = name
        self._replies = replies
        self._per_text = per_text
        self._logprobs = logprobs
        self._offsets = [0 for _ in replies.requests]
        self._opened: set[int] = set()

    def whole(self) -> Completion:
        """The answer."""
        choices = [
            CompletionChoice(
                index=number,
                text=reply.text,
                logprobs=self._logprobs_of(reply.logprobs, 0),
                finish_reason=reply.finish,
                spt=spt_of(self._replies, number),
            )
            for number, reply in enumerate(self._replies.replies)
        ]
        return self._answer(choices, usage=self._usage(), spt=spt_of(self._replies, 0))

    def chunks(self, number: int, piece: Piece) -> list[BaseModel]:
        """The event of a piece; none where nothing is to be told."""
        first = number not in self._opened
        self._opened.add(number)
        if not (first or piece.text or piece.logprobs or piece.finish):
            return []
        logprobs = self._logprobs_of(piece.logprobs, self._offsets[number]) if piece.logprobs else None
        self._offsets[number] += sum(len(token.token) for token in piece.logprobs)
        spt = spt_of(self._replies, number) if first else None
        choice = CompletionChoice(index=number, text=piece.text, logprobs=logprobs, finish_reason=piece.finish, spt=spt)
        return [self._answer([choice], spt=spt)]

    def usage(self) -> Completion:
        """The event that tells the usage."""
        return self._answer([], usage=self._usage())

    def _answer(
        self, choices: list[CompletionChoice], *, usage: Usage | None = None, spt: Spt | None = None
    ) -> Completion:
        replies = self._replies
        return Completion(
            id=self._name, created=int(replies.created), model=replies.model, choices=choices, usage=usage, spt=spt
        )

    def _usage(self) -> Usage:
        """The continuations of one text read the same tokens: they count once."""
        read = self._replies.prompt_tokens[:: self._per_text]
        return usage_of(read, [reply.tokens for reply in self._replies.replies])

    def _logprobs_of(self, tokens: Sequence[TokenLogprob], offset: int) -> CompletionLogprobs | None:
        """Offsets count the characters of the tokens; those of a stop are no part of the text."""
        if not self._logprobs:
            return None
        offsets = [offset + sum(len(token.token) for token in tokens[:number]) for number in range(len(tokens))]
        return CompletionLogprobs(
            tokens=[token.token for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[_best_of_each_text(token) for token in tokens],
            text_offset=offsets,
        )


def _best_of_each_text(token: TokenLogprob) -> dict[str, float]:
    """The alternatives by their texts. Different tokens can have one text, such as parts of characters: the best counts."""
    best: dict[str, float] = {}
    for other in token.top:
        best.setdefault(other.token, other.logprob)
    return best
