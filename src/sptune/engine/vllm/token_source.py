"""What turns embeddings into tokens: vLLM in this process, or replicas of it behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sptune.engine.prepared import Prepared
    from sptune.engine.serving import Finish, TokenLogprob


@dataclass(frozen=True, slots=True)
class TokenNews:
    """What has become of a request since the news before.

    Attributes:
        tokens: (N,) new token ids; an end token may be among them or not.
        logprobs: one of each token, where they were asked for (`Prepared.logprobs`).
        finish: "stop" (an end token) or "length"; in the last news only, and always there.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None


class TokenSource(Protocol):
    """Runs whole sequences of embeddings, [SP_k; context], on vLLM. Used from one event loop."""

    slots: int
    """Requests that it is given at a time; vLLM batches them itself."""

    @property
    def alive(self) -> bool:
        """Whether there is a vLLM that takes requests now."""

    @property
    def window(self) -> int | None:
        """The most tokens of prompt, context and reply that vLLM takes (`max_model_len`), once started; None: as the model."""

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            SptError: vLLM is not there, or serves something else.
        """

    async def stop(self) -> None:
        """Release what `start` took. No request is open any more."""

    def tokens(self, prepared: Prepared) -> AsyncGenerator[TokenNews, None]:
        """The reply to `Prepared.embeddings()`, ended by `Prepared.ends` or `decoding.max_new_tokens`. Stop texts are not its concern.

        Closing it (`aclose`) or cancelling the task that waits for it aborts the request in vLLM.

        Args:
            prepared: what is answered; decoding that vLLM does not know was refused.

        Raises:
            UsageError: vLLM refuses the request.
            OverloadedError: it has no room.
            UnavailableError: it stops, or the model failed.
        """
