"""The bodies of answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ChosenPrompt(BaseModel):
    """Which soft prompt is chosen."""

    prompt: int = Field(description="its number, from 0")
    scores: list[float] = Field(description="the retriever's K scores")
    margin: float = Field(description="best score minus second best; 0 where K = 1")


class Spt(ChosenPrompt):
    """Which soft prompt spoke, or with what weights all of them did."""

    weights: list[float] | None = Field(
        description="the K weights where all prompts spoke together; null where the chosen one spoke alone"
    )


class Usage(BaseModel):
    """Tokens that were used; those of the soft prompt are prompt tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AlternativeLogprob(BaseModel):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobs(AlternativeLogprob):
    """A token of the reply."""

    top_logprobs: list[AlternativeLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of a chat reply's tokens."""

    content: list[TokenLogprobs]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion's tokens, one list a property."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AssistantMessage(BaseModel):
    """A reply."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the replies."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The answer to a chat request."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    spt: Spt | None = Field(description="null for the base model")


class ChatChunkChoice(BaseModel):
    """A piece of one of the replies."""

    index: int
    delta: dict[str, str]
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    """An event of a chat stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    spt: Spt | None = Field(None, description="in the first chunk of each reply")


class CompletionChoice(BaseModel):
    """One of the continuations, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    spt: Spt | None = Field(None, description="of its own text; in a stream, in its first chunk")


class Completion(BaseModel):
    """The answer to a completion request, and an event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    spt: Spt | None = Field(None, description="of the first text")


class SelectionAnswer(ChosenPrompt):
    """Which soft prompt would speak."""

    object: Literal["spt.selection"] = "spt.selection"
    model: str


class SptModel(BaseModel):
    """What is known about a model."""

    base: str
    num_prompts: int = Field(description="K; 0 for the base model")
    prompt_length: int = Field(description="virtual tokens of a soft prompt")
    max_length: int = Field(description="tokens beyond which the oldest turns are dropped")
    template: str | None = None
    retriever: str | None = None
    reading: str | None = None
    decoding: str | None = Field(None, description="who speaks where a request does not say")
    stops: list[str] = []
    loaded: bool = True


class Model(BaseModel):
    """An adapter, or the base model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["sptune"] = "sptune"
    spt: SptModel


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


class ModelDeleted(BaseModel):
    """An adapter that is no longer served."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class Personas(BaseModel):
    """The personas that the server knows by name."""

    personas: dict[str, list[str]]


class FeedbackKept(BaseModel):
    """A rating that was kept."""

    object: Literal["feedback"] = "feedback"
    completion_id: str
    rating: Literal[1, -1]


class RecordsDeleted(BaseModel):
    """How many records of a user were deleted."""

    user: str
    deleted: int


class Health(BaseModel):
    """The server lives, or can take requests; what cannot is an error."""

    status: Literal["ok"] = "ok"


class Version(BaseModel):
    """What runs here."""

    version: str
    engine: str
    base: str
    records: bool = Field(description="whether conversations and feedback are kept")
    retention_days: float | None = Field(description="days after which a record is deleted; null: none is")


class ErrorDetail(BaseModel):
    """What is wrong, and how to put it right."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error body."""

    error: ErrorDetail
