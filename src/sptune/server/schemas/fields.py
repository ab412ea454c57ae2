"""What the requests have in common: which fields there are, and which of OpenAI's have no effect here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

Prompt = Annotated[int, Field(ge=0)] | Literal["auto"]
Stop = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def _or_refused(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One message, in words, whatever pydantic finds wrong with the value."""
    try:
        return check(value)
    except ValidationError as error:
        raise PydanticCustomError("unsupported", "not supported by this server; leave it out") from error


_T = TypeVar("_T")
Neutral = Annotated[
    _T | None, WrapValidator(_or_refused)
]  # a field of OpenAI's: taken with values that ask for nothing
Zero = Annotated[float, Field(ge=0, le=0)]
NoItems = Annotated[list[Any], Field(max_length=0)]
NoKeys = Annotated[dict[str, Any], Field(max_length=0)]


class Body(BaseModel):
    """A request body. Fields that it does not name are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    # fields of OpenAI's that change nothing about an answer: they are taken, and named in a warning header
    IGNORED: ClassVar[tuple[str, ...]] = ()

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the fields that were given and that have no effect."""
        return tuple(name for name in self.IGNORED if getattr(self, name) is not None)


class StreamOptions(Body):
    """What a stream holds beside its pieces."""

    include_usage: bool | None = Field(None, description="a last chunk with the tokens that were used")
    include_obfuscation: Neutral[Literal[False]] = None


class GenerationBody(Body):
    """What every request for a reply can say."""

    IGNORED: ClassVar[tuple[str, ...]] = (
        "service_tier",
        "store",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    )

    model: str = Field(
        min_length=1, max_length=256, description="an adapter, or the base model, as /v1/models lists them"
    )
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False, description="0 takes the likeliest token")
    top_p: float | None = Field(
        None, gt=0, le=1, description="draw from the likeliest tokens that hold this probability"
    )
    decoding: Literal["top1", "fused", "gated"] | None = Field(
        None,
        description="who speaks: the chosen soft prompt (top1), all on average (fused), or as their scores weigh them (gated)",
    )
    n: int | None = Field(None, ge=1, description="how many replies")
    seed: Seed | None = Field(None, description="makes drawn replies repeatable; reply i is drawn with seed + i")
    stop: Stop | list[Stop] | None = Field(None, description="texts that end the reply")
    max_tokens: int | None = Field(None, ge=1, description="the most tokens of the reply")
    stream: bool | None = Field(None, description="send the reply piece by piece, as server-sent events")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=256, description="your opaque id of who talks; records are deleted by it")

    presence_penalty: Neutral[Zero] = Field(None, description="not supported: 0 only")
    frequency_penalty: Neutral[Zero] = Field(None, description="not supported: 0 only")
    logit_bias: Neutral[NoKeys] = Field(None, description="not supported: {} only")
    service_tier: str | None = Field(None, description="has no effect")
    store: bool | None = Field(None, description="has no effect")
    metadata: dict[str, str] | None = Field(None, description="has no effect")
    safety_identifier: str | None = Field(None, description="has no effect")
    prompt_cache_key: str | None = Field(None, description="has no effect")
    prompt_cache_retention: str | None = Field(None, description="has no effect")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def replies(self) -> int:
        """How many replies are wanted."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)
