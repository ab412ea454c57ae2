"""An engine without a model: it says what it is told to say, word by word."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sptune.data.dialogue import Dialogue
from sptune.engine.base import Chunk
from sptune.errors import DataError


@dataclass(frozen=True)
class FakeSelection:
    """Stands in for `Selection`, without importing torch."""

    prompt: int
    scores: tuple[float, ...]
    margin: float = 0.1


@dataclass(frozen=True)
class FakeReply:
    """Stands in for `Reply`, without importing torch."""

    text: str
    selection: FakeSelection
    tokens: tuple[int, ...] = ()


@dataclass
class FakeEngine:
    """Scores and replies from a script, and a record of what it was asked.

    Attributes:
        scores: of the contexts, by number of turns; the last row goes on for ever.
        weights: of the prompts where all speak together.
        pause: seconds between two words.
        calls: keyword arguments of every call, with the method's name.
        words: words streamed so far.
    """

    scores: Sequence[tuple[float, ...]] = ((0.1, 0.3, 0.2),)
    weights: tuple[float, ...] | None = None
    pause: float = 0.0
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    words: int = 0

    @property
    def num_prompts(self) -> int:
        return len(self.scores[0])

    def mixture(self, selection: FakeSelection, decoding: Any = None) -> tuple[float, ...] | None:
        return self.weights

    def select(self, contexts: Sequence[Dialogue], **options: Any) -> list[FakeSelection]:
        self.calls.append(("select", options))
        if "too long" in (contexts[0].turns[-1].user if contexts else ""):
            raise DataError("dialogue 'chat-1': does not fit")
        return [self._choose(context, **options) for context in contexts]

    def generate(self, contexts: Sequence[Dialogue], **options: Any) -> list[FakeReply]:
        self.calls.append(("generate", {"contexts": contexts, **options}))
        prompts = options["prompt"]
        return [
            FakeReply(self._text(context, k), FakeSelection(k, self._scores(context)))
            for context, k in zip(contexts, prompts, strict=True)
        ]

    def stream(self, context: Dialogue, **options: Any) -> Generator[Chunk, None, None]:
        self.calls.append(("stream", options))
        speaks = options["previous"].prompt if options["prompt"] is None else options["prompt"]
        text = self._text(context, speaks)
        for number, word in enumerate(text.split(" ")):
            time.sleep(self.pause)
            self.words += 1
            yield Chunk(f" {word}" if number else word)
        yield Chunk("", FakeReply(text, FakeSelection(speaks, self._scores(context))))  # type: ignore[arg-type]

    def _scores(self, context: Dialogue) -> tuple[float, ...]:
        return self.scores[min(len(context.turns), len(self.scores)) - 1]

    def _choose(self, context: Dialogue, **options: Any) -> FakeSelection:
        scores = self._scores(context)
        best = scores.index(max(scores))
        if options.get("prompt") is not None:
            best = options["prompt"]
        elif (previous := (options.get("previous") or [None])[0]) is not None:
            best = best if scores[best] - scores[previous.prompt] > options["threshold"] else previous.prompt
        return FakeSelection(best, scores)

    @staticmethod
    def _text(context: Dialogue, prompt: int) -> str:
        """What prompt number `prompt` answers: nothing to `silence`, a long story to `story`."""
        user = context.turns[-1].user
        if user == "silence":
            return ""
        if user == "story":
            return " ".join(f"word{n}" for n in range(200))
        if user == "break":
            raise RuntimeError("out of memory")
        return f"prompt {prompt} answers {user}"
