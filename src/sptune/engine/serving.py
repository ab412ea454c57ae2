"""The serving protocol: what the server asks of an engine. Requests of many users, for many adapters, at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from sptune.errors import SptError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from sptune.data.dialogue import Dialogue
    from sptune.model.generate import Decoding
    from sptune.model.mixture import Mixture
    from sptune.model.selection import Selection

Finish = Literal["stop", "length"]
"""Why a reply ended: an end token or a stop text, or `max_new_tokens`."""


class OverloadedError(SptError):
    """A request that the engine has no room for now.

    Args:
        message: what is full.
        retry_after: seconds after which it is worth another try.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(SptError):
    """An engine that was not started, that is stopping, or whose model failed."""


@dataclass(frozen=True, slots=True)
class ServingRequest:
    """One reply that is asked for.

    Attributes:
        adapter: name of an adapter; None: the bare base model, without a prompt.
        context: persona and turns; the last turn waits for its response. Exactly one of `context` and `text` is given.
        decoding: how tokens are chosen, and who speaks: the chosen prompt, or all together (vLLM does not serve that). Beams are not served.
        stop: texts that end the reply, beside the adapter's own.
        prompt: a forced prompt; None: the retriever chooses.
        sticky: the prompt of the turn before is kept unless another's score is higher by more than `threshold`; the engine finds it.
        previous: the prompt of the turn before, where it is known already; None: chosen anew.
        threshold: of sticky selection, a difference of scores, >= 0.
        logprobs: None: none; n >= 0: the log-probability of each token, and those of the n most probable ones.
        text: a text to be continued as it stands, without a template; control characters are dropped.
    """

    adapter: str | None
    context: Dialogue | None
    decoding: Decoding
    stop: tuple[str, ...] = ()
    prompt: int | None = None
    sticky: bool = False
    previous: int | None = None
    threshold: float = 0.0
    logprobs: int | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no engine can answer."""
        if (self.context is None) == (self.text is None):
            raise UsageError("context: give either a context or a text to continue")
        if any(not stop for stop in self.stop):
            raise UsageError("stop: an empty text would end every reply; leave it out")
        if self.threshold < 0:
            raise UsageError(f"threshold: {self.threshold:g} is below 0")
        if self.logprobs is not None and self.logprobs < 0:
            raise UsageError(f"logprobs: {self.logprobs} is below 0")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and how probable the model held it, before temperature and top_p.

    Attributes:
        token: its text; holds U+FFFD where the token is a part of a character.
        logprob: natural logarithm of its probability.
        top: the most probable tokens in its place, falling, as many as were asked for; they have no `top` themselves.
    """

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a reply while it is generated.

    Attributes:
        text: what the reply has grown by. The texts of all pieces, joined, are the reply: no stop is in it, and no
            white space at either end. What may still turn out to be the beginning of a stop is held back.
        tokens: new tokens so far, without an end token.
        logprobs: of the tokens since the piece before, where they were asked for.
        finish: why the reply ended; in the last piece only, and always there.
    """

    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None


class Stream(Protocol):
    """A reply on its way: an asynchronous iterator of pieces. Whoever submitted it must exhaust or close it."""

    @property
    def selection(self) -> Selection | None:
        """The prompt that was chosen and all scores, once `started` is done; None without an adapter."""

    @property
    def weights(self) -> tuple[float, ...] | None:
        """K weights of the prompts where several speak together, once `started` is done; None where one speaks alone."""

    @property
    def selection_seconds(self) -> float:
        """How long scoring the prompts took, once `started` is done; 0 without an adapter."""

    @property
    def prompt_tokens(self) -> int:
        """Virtual tokens and context tokens that the reply follows, once `started` is done."""

    async def started(self) -> None:
        """Wait until the adapter is loaded, the context encoded and a prompt chosen; a slot may still be waited for.

        Raises:
            AdapterError: no adapter of that name, or one that cannot be loaded.
            UsageError: no such prompt, decoding that is not served, or a reply that does not fit the window.
            DataError: a context that does not fit the window.
            UnavailableError: the engine stops.
        """

    def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces."""

    async def __anext__(self) -> Piece:
        """The next piece. Raises what `started` raises, and `UnavailableError` where the engine stops or the model fails."""

    async def aclose(self) -> None:
        """Give the reply up: no further piece comes, and its slot is free within one token. Does nothing once the reply has ended."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is.

    Attributes:
        running: replies that are being generated.
        waiting: requests that wait for a slot, or for their adapter.
        slots: replies that can be generated at a time; 0 while the model cannot be reached.
        queue_limit: requests that may wait.
    """

    running: int
    waiting: int
    slots: int
    queue_limit: int


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What is known about an adapter.

    Attributes:
        name: that requests choose it by.
        base: the base model it was trained on, as the adapter names it.
        num_prompts: K.
        prompt_length: L.
        template: kind of template that turns dialogues into tokens.
        retriever: kind of retriever.
        reading: what the retriever reads: `mean`, `recent` or `hidden`.
        decoding: who speaks where a request does not say: `top1`, `fused` or `gated`.
        stops: texts that end its replies.
        max_length: tokens of prompt, context and reserve beyond which the oldest turns are dropped.
        created: Unix time at which it was added.
        loaded: False while its tensors are not in memory; the next request for it loads them again.
    """

    name: str
    base: str
    num_prompts: int
    prompt_length: int
    template: str
    retriever: str
    reading: str
    decoding: Mixture
    stops: tuple[str, ...]
    max_length: int
    created: float
    loaded: bool


class Adapters(Protocol):
    """The adapters that an engine serves, by name. Beyond a limit the least recently used one leaves memory, not the list."""

    async def add(self, name: str, path: str | Path) -> AdapterInfo:
        """Load an adapter folder (or run folder, or hub id) under `name`, which requests can use from now on, waiting for it.

        Raises:
            UsageError: the name is taken, or empty.
            AdapterError: missing, damaged, or made for another base model; the name is then free again.
        """

    async def remove(self, name: str) -> None:
        """Forget an adapter; replies that are being generated with it go on to their end.

        Raises:
            AdapterError: no adapter of that name.
        """

    def names(self) -> list[str]:
        """Names of all adapters that were loaded once, in the order they were added."""

    def describe(self, name: str) -> AdapterInfo:
        """What is known about an adapter.

        Raises:
            AdapterError: no adapter of that name.
        """


class ServingEngine(Protocol):
    """Runs one base model for many requests at once. Used from one event loop."""

    @property
    def base(self) -> str:
        """Name of the base model."""

    @property
    def window(self) -> int:
        """The most tokens of prompt, context and reply together."""

    @property
    def adapters(self) -> Adapters:
        """The adapters that requests can name."""

    async def start(self) -> None:
        """Begin to serve."""

    async def stop(self, *, drain: float = 0.0) -> None:
        """Take no more requests, give those that are open `drain` seconds to end, and end the rest with `UnavailableError`."""

    def submit(self, request: ServingRequest) -> Stream:
        """Ask for a reply; whatever is wrong with the request itself, `Stream.started` says.

        Raises:
            OverloadedError: all slots are busy and the queue is full.
            UnavailableError: not started, or stopping.
        """

    async def select(self, requests: Sequence[ServingRequest]) -> list[Selection]:
        """The prompt that each request would be answered with, and the scores of all, without generating.

        Raises:
            UsageError: a request without an adapter, or no such prompt.
            AdapterError: as `Stream.started`.
            DataError: as `Stream.started`.
            UnavailableError: not started, or stopping.
        """

    def load(self) -> Load:
        """How busy the engine is now."""
