"""The engine protocol: what chat, server and evaluation ask of whatever runs the model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.model.generate import Decoding
    from sptune.model.selection import Selection, SelectionRule
    from sptune.model.spt import Reply

Forced: TypeAlias = int | Sequence[int | None] | None
"""A forced prompt: one for all contexts, or one for each (None: the retriever chooses), or none at all."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a reply while it is generated.

    Attributes:
        text: what the reply has grown by. The texts of all chunks, joined, are the reply's text.
        reply: the whole reply, in the last chunk only.
    """

    text: str
    reply: Reply | None = None


class Engine(Protocol):
    """Runs a selectively prompted model.

    All three methods choose a prompt for each context in the same way: a forced prompt, whatever the scores; else by
    `rule`; and where the turn before is given in `previous`, its prompt is kept unless the one chosen now beats its
    present score by more than `threshold` (sticky).
    """

    @property
    def num_prompts(self) -> int:
        """K."""

    def select(
        self,
        contexts: Sequence[Dialogue],
        *,
        rule: SelectionRule = "top1",
        prompt: Forced = None,
        previous: Sequence[Selection | None] | None = None,
        threshold: float = 0.0,
        seed: int | None = None,
    ) -> list[Selection]:
        """Choose a prompt for each of n contexts, without generating.

        Args:
            contexts: n dialogues whose last turn waits for its response.
            rule: how a prompt is chosen from the scores.
            prompt: forced prompts.
            previous: n selections of the turns before, None where there is none.
            threshold: of sticky selection, a difference of scores, >= 0.
            seed: of rule `sample`.

        Returns:
            n selections. A context's scores do not depend on its batch.

        Raises:
            UsageError: no such prompt, or not one value for each context.
            DataError: a context that does not fit the model's window.
        """

    def mixture(self, selection: Selection, decoding: Decoding | None = None) -> tuple[float, ...] | None:
        """K weights of the prompts that speak together in a context under `decoding`; None where the chosen one speaks alone."""

    def generate(
        self,
        contexts: Sequence[Dialogue],
        *,
        decoding: Decoding | None = None,
        rule: SelectionRule = "top1",
        prompt: Forced = None,
        previous: Sequence[Selection | None] | None = None,
        threshold: float = 0.0,
    ) -> list[Reply]:
        """Replies to n contexts in one batch, whose rows may use different prompts.

        Args:
            contexts: n dialogues whose last turn waits for its response.
            decoding: how tokens are chosen; greedy, at most 32 new tokens, where None. Its seed is also that of rule
                `sample`.
            rule: see `select`, as are `prompt`, `previous` and `threshold`.

        Returns:
            n replies, cut at the model's stops.

        Raises:
            UsageError: as `select`, or a reply that does not fit the model's window.
            DataError: a context that does not fit the model's window.
        """

    def stream(
        self,
        context: Dialogue,
        *,
        decoding: Decoding | None = None,
        rule: SelectionRule = "top1",
        prompt: int | None = None,
        previous: Selection | None = None,
        threshold: float = 0.0,
    ) -> Generator[Chunk, None, None]:
        """The reply to one context, as it is generated: the same text as `generate` gives.

        Text that may still turn out to be the beginning of a stop is held back; a stop is never shown. Closing the
        generator stops generation within one token. Beam search cannot stream: it yields the reply in one chunk.

        Args:
            context: a dialogue whose last turn waits for its response.
            decoding: as in `generate`, as are `rule`, `prompt`, `previous` and `threshold`.

        Raises:
            UsageError: as `generate`; for the choice of prompt at once, for the window with the first chunk.
            DataError: at once, a context that does not fit the model's window.
        """
