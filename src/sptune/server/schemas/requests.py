"""The bodies of requests."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from sptune.config.mistakes import short
from sptune.server.schemas.fields import Body, GenerationBody, Neutral, NoItems, Prompt

Sentence = Annotated[str, Field(min_length=1)]
Persona = list[Sentence] | str


class TextPart(Body):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="system (or developer): the persona, before the first turn"
    )
    content: str | list[TextPart]
    name: str | None = Field(None, max_length=64, description="has no effect")
    refusal: Neutral[None] = None
    audio: Neutral[None] = None
    tool_calls: Neutral[None] = None
    function_call: Neutral[None] = None
    annotations: Neutral[NoItems] = None

    @field_validator("content", mode="before")
    @classmethod
    def _is_text(cls, content: Any) -> Any:
        parts = content if isinstance(content, list) else []
        kinds = {short(part["type"]) for part in parts if isinstance(part, dict) and part.get("type", "text") != "text"}
        if kinds:
            raise ValueError(f"only text is understood; leave out parts of type {', '.join(sorted(kinds)[:3])}")
        return content

    @property
    def text(self) -> str:
        """What is said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ConversationBody(Body):
    """Who speaks and what was said."""

    messages: list[Message] = Field(min_length=1, description="the conversation; the last message is the user's")
    persona: Persona | None = Field(
        None, description="who replies: sentences, or the name of a persona of the server; in place of a system message"
    )
    prompt: Prompt | None = Field(None, description="auto: the retriever chooses; k: soft prompt k speaks")
    selection: Literal["per_turn", "sticky"] | None = Field(
        None, description="sticky keeps the soft prompt of the turn before unless another is clearly better"
    )
    sticky_margin: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="how much better its score has to be; 0.05 where it is not given"
    )

    @property
    def forced(self) -> int | None:
        """The soft prompt that speaks whatever the scores; None: the retriever chooses."""
        return None if self.prompt == "auto" else self.prompt

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the fields that were given and that have no effect."""
        names = ["messages.name"] if any(message.name is not None for message in self.messages) else []
        names += ["sticky_margin"] if self.sticky_margin is not None and self.selection != "sticky" else []
        return (*super().ignored, *names)


class SelectBody(ConversationBody):
    """`POST /v1/spt/select`."""

    model: str = Field(min_length=1, max_length=256, description="an adapter, as /v1/models lists them")


class ChatBody(ConversationBody, GenerationBody):
    """`POST /v1/chat/completions`."""

    IGNORED: ClassVar = (*GenerationBody.IGNORED, "parallel_tool_calls")

    max_completion_tokens: int | None = Field(None, ge=1, description="the same as max_tokens")
    logprobs: bool | None = Field(None, description="give the log-probability of each token")
    top_logprobs: int | None = Field(None, ge=0, description="and those of so many likeliest tokens")

    response_format: Neutral[dict[Literal["type"], Literal["text"]]] = Field(
        None, description="not supported: text only"
    )
    tools: Neutral[NoItems] = Field(None, description="not supported: [] only")
    tool_choice: Neutral[Literal["none", "auto"]] = Field(None, description="not supported: none or auto only")
    functions: Neutral[NoItems] = Field(None, description="not supported: [] only")
    function_call: Neutral[Literal["none", "auto"]] = Field(None, description="not supported: none or auto only")
    modalities: Neutral[list[Literal["text"]]] = Field(None, description="not supported: text only")
    audio: Neutral[None] = Field(None, description="not supported")
    prediction: Neutral[None] = Field(None, description="not supported")
    web_search_options: Neutral[None] = Field(None, description="not supported")
    reasoning_effort: Neutral[Literal["none"]] = Field(None, description="not supported: none only")
    verbosity: Neutral[Literal["medium"]] = Field(None, description="not supported: medium only")
    parallel_tool_calls: bool | None = Field(None, description="has no effect")


class CompletionBody(GenerationBody):
    """`POST /v1/completions`: texts to be continued as they stand, without template and persona."""

    prompt: str | Annotated[list[str], Field(min_length=1)] = Field(description="a text, or several")
    spt_prompt: Prompt | None = Field(None, description="auto: the retriever chooses; k: soft prompt k speaks")
    logprobs: int | None = Field(None, ge=0, description="give each token's log-probability and so many alternatives")

    best_of: int | None = Field(None, ge=1, description="not supported: the same as n only")
    echo: Neutral[Literal[False]] = Field(None, description="not supported: false only")
    suffix: Neutral[Literal[""]] = Field(None, description="not supported")

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to be continued."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)

    @property
    def forced(self) -> int | None:
        """The soft prompt that speaks whatever the scores; None: the retriever chooses."""
        return None if self.spt_prompt == "auto" else self.spt_prompt


def _no_bool(value: Any) -> Any:
    """Python takes true for 1, a reader of the schema does not."""
    if isinstance(value, bool):
        raise ValueError("is true or false, not 1 or -1")
    return value


class FeedbackBody(Body):
    """`POST /v1/feedback`."""

    completion_id: str = Field(min_length=1, max_length=128, description="id of the answer that is rated")
    rating: Annotated[Literal[1, -1], BeforeValidator(_no_bool)] = Field(description="1: liked, -1: disliked")
    comment: str | None = Field(None, max_length=4000)
    choice: int = Field(0, ge=0, le=1023, description="number of the reply, where the answer has several")


class AdapterBody(Body):
    """`POST /admin/adapters`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$", description="what requests choose it by")
    path: str = Field(min_length=1, max_length=4096, description="its folder, below the server's admin_root")
