"""`chat.completion` and `chat.completion.chunk`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sptune.server.forms.parts import spt_of, usage_of
from sptune.server.schemas.answers import (
    AlternativeLogprob,
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Spt,
    TokenLogprobs,
    Usage,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from sptune.engine.serving import Piece, TokenLogprob
    from sptune.server.replies import Replies

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class ChatForm:
    """Answers of a chat.

    Args:
        name: id of the answer.
        replies: what is answered.
        logprobs: whether log-probabilities were asked for.
    """

    def __init__(self, name: str, replies: Replies, *, logprobs: bool) -> None:
        self._name = name
        self._replies = replies
        self._logprobs = logprobs
        self._opened: set[int] = set()

    def whole(self) -> ChatCompletion:
        """The answer."""
        return ChatCompletion(
            id=self._name,
            created=int(self._replies.created),
            model=self._replies.model,
            choices=[
                ChatChoice(
                    index=number,
                    message=AssistantMessage(content=reply.text),
                    logprobs=self._logprobs_of(reply.logprobs),
                    finish_reason=reply.finish or "stop",
                )
                for number, reply in enumerate(self._replies.replies)
            ],
            usage=self._usage(),
            spt=spt_of(self._replies, 0),
        )

    def chunks(self, number: int, piece: Piece) -> list[BaseModel]:
        """The events of a piece: a first one that says who speaks, one with text, and a last one that says why it ended."""
        chunks: list[BaseModel] = []
        if number not in self._opened:
            self._opened.add(number)
            opening = ChatChunkChoice(index=number, delta={"role": "assistant", "content": ""})
            chunks.append(self._chunk([opening], spt=spt_of(self._replies, number)))
        if piece.text or piece.logprobs:
            logprobs = self._logprobs_of(piece.logprobs)
            chunks.append(
                self._chunk([ChatChunkChoice(index=number, delta={"content": piece.text}, logprobs=logprobs)])
            )
        if piece.finish is not None:
            chunks.append(self._chunk([ChatChunkChoice(index=number, delta={}, finish_reason=piece.finish)]))
        return chunks

    def usage(self) -> ChatChunk:
        """The event that tells the usage."""
        return self._chunk([], usage=self._usage())

    def _chunk(
        self, choices: list[ChatChunkChoice], *, usage: Usage | None = None, spt: Spt | None = None
    ) -> ChatChunk:
        replies = self._replies
        return ChatChunk(
            id=self._name, created=int(replies.created), model=replies.model, choices=choices, usage=usage, spt=spt
        )

    def _usage(self) -> Usage:
        """The replies to one chat read the same tokens: they count once."""
        return usage_of(self._replies.prompt_tokens[:1], [reply.tokens for reply in self._replies.replies])

    def _logprobs_of(self, tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return ChatLogprobs(content=[_token(token) for token in tokens]) if self._logprobs else None


def _token(token: TokenLogprob) -> TokenLogprobs:
    top = [AlternativeLogprob(token=t.token, logprob=t.logprob, bytes=_bytes(t.token)) for t in token.top]
    return TokenLogprobs(token=token.token, logprob=token.logprob, bytes=_bytes(token.token), top_logprobs=top)


def _bytes(text: str) -> list[int] | None:
    """The bytes of a token; None where it is a part of a character, whose bytes are not known."""
    return None if _INCOMPLETE in text else list(text.encode())
