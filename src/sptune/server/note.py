"""What is noted about a request on its way, for the log and the metrics. Never a word of what was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Note:
    """Facts about one request.

    Attributes:
        request_id: the client's own, or one made here; also in the answer's header `x-request-id`.
        model: the model, where there is one of that name.
        stream: whether the answer is streamed.
        replies: how many replies were asked for.
        prompt_tokens: tokens that were read, of all replies.
        completion_tokens: tokens that were generated, of all replies.
        finish: why the first reply ended.
        soft_prompt: the soft prompt that spoke.
        margin: best score minus second best.
        first_token_seconds: time to the first token.
        error: code of the error that the client was told.
    """

    request_id: str
    model: str | None = None
    stream: bool | None = None
    replies: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str | None = None
    soft_prompt: int | None = None
    margin: float | None = None
    first_token_seconds: float | None = None
    error: str | None = None

    def fields(self) -> dict[str, Any]:
        """The facts that are known."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
