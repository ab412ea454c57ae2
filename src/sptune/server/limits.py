"""What a request may ask for: each limit with an error of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sptune.server.errors import ApiError, bad_request

if TYPE_CHECKING:
    from sptune.server.schemas.fields import GenerationBody
    from sptune.server.schemas.requests import ChatBody, CompletionBody, ConversationBody
    from sptune.server.settings import ServerSettings


class Limits:
    """The limits of a server.

    Args:
        settings: hold the numbers.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings

    def check_chat(self, body: ChatBody) -> None:
        """Refuse a chat request that asks for too much.

        Raises:
            ApiError: names the field, its value and the limit.
        """
        self.check_conversation(body)
        self._check_generation(body, replies=body.replies)
        if body.max_completion_tokens is not None:
            if body.max_tokens not in {None, body.max_completion_tokens}:
                raise bad_request(
                    "max_tokens: differs from max_completion_tokens; send one of them", param="max_tokens"
                )
            self._at_most("max_completion_tokens", body.max_completion_tokens, self._settings.max_tokens)
        if body.top_logprobs is not None and not body.logprobs:
            raise bad_request("top_logprobs: needs logprobs=true", param="top_logprobs")
        self._at_most("top_logprobs", body.top_logprobs, self._settings.max_logprobs)

    def check_completion(self, body: CompletionBody) -> None:
        """Refuse a completion request that asks for too much.

        Raises:
            ApiError: names the field, its value and the limit.
        """
        self._check_generation(body, replies=body.replies * len(body.texts))
        self._at_most("logprobs", body.logprobs, self._settings.max_logprobs)
        if body.best_of not in {None, body.replies}:
            raise bad_request("best_of: not supported; send n alone, or best_of equal to it", param="best_of")
        self._lengths("prompt", body.texts)
        if not all(body.texts):
            raise bad_request("prompt: an empty text; give one to continue", param="prompt")

    def check_conversation(self, body: ConversationBody) -> None:
        """Refuse a conversation that is too large.

        Raises:
            ApiError: names the field, its value and the limit.
        """
        s = self._settings
        self._at_most("messages", len(body.messages), s.max_messages, unit=" messages", code="too_many_messages")
        self._lengths("messages", (message.text for message in body.messages))
        if body.persona is not None and not isinstance(body.persona, str):
            count = len(body.persona)
            self._at_most("persona", count, s.max_persona_sentences, unit=" sentences", code="persona_too_long")
            self._lengths("persona", body.persona)

    def _check_generation(self, body: GenerationBody, *, replies: int) -> None:
        s = self._settings
        self._at_most("n", replies, s.max_n, unit=" replies", code="too_many_replies")
        self._at_most("max_tokens", body.max_tokens, s.max_tokens)
        self._at_most("stop", len(body.stops), s.max_stops, unit=" texts", code="too_many_stops")
        self._at_most("stop", max(map(len, body.stops), default=0), s.max_stop_chars, unit=" characters")
        if body.stream_options is not None and not body.stream:
            raise bad_request("stream_options: needs stream=true", param="stream_options")

    def _lengths(self, field: str, texts: Iterable[str]) -> None:
        longest = max(map(len, texts), default=0)
        limit = self._settings.max_message_chars
        self._at_most(field, longest, limit, unit=" characters in one", code="text_too_long")

    @staticmethod
    def _at_most(field: str, value: int | None, limit: int, *, unit: str = "", code: str = "limit_exceeded") -> None:
        if value is not None and value > limit:
            raise ApiError(400, code, f"{field}: {value}{unit} is more than this server allows, {limit}", param=field)
