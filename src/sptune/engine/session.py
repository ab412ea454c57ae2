"""A conversation with an engine: who speaks, what was said, and which prompt said it."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sptune.data.dialogue import Dialogue
from sptune.data.lines import clean
from sptune.data.save import save_dialogues
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.engine.base import Chunk, Engine
    from sptune.model.generate import Decoding
    from sptune.model.selection import Selection

RETRY_TEMPERATURE = 0.8  # of a second reply where the first was not sampled
RETRY_TOP_P = 0.95

Reason = Literal["retriever", "kept", "forced", "candidate"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A user message and what was answered.

    Attributes:
        context: what the reply was generated from.
        text: the reply as far as it was generated; may be empty, and is then no part of the conversation.
        selection: the prompt that spoke, and all scores.
        reason: why that prompt: the retriever's choice, kept from the turn before (sticky), forced, or that of the best candidate where
            the engine chose among replies of several.
        complete: False where the reply was stopped.
        attempt: 0, and 1 more with every retry.
    """

    context: Dialogue
    text: str
    selection: Selection
    reason: Reason
    complete: bool = True
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Why:
    """What stands behind a reply.

    Attributes:
        exchange: the reply, its scores and its prompt.
        replies: K texts: what was said for the prompt that spoke, what would have been said for each other.
        weights: of the K prompts where they spoke together; each of `replies` is then what would have been said by one alone.
    """

    exchange: Exchange
    replies: tuple[str, ...]
    weights: tuple[float, ...] | None = None


class Session:
    """Conversations of one user with one engine, one after the other. Earlier ones are kept for saving.

    Control characters in messages, persona and replies are dropped: they could drive a terminal, and no dialogue file
    may hold them.

    Args:
        engine: what replies.
        persona: sentences about the speaker of the replies.
        decoding: how tokens are chosen; the engine's default where None.
        prompt: a forced prompt, or None where the retriever chooses. Can be set at any time.
        sticky: keep the prompt of the turn before unless another's score is higher by more than this; None chooses anew
            every turn.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        persona: Sequence[str] = (),
        decoding: Decoding | None = None,
        prompt: int | None = None,
        sticky: float | None = None,
    ) -> None:
        self.engine = engine
        self.prompt = prompt
        self.last: Exchange | None = None
        self._decoding = decoding
        self._sticky = sticky
        self._earlier: list[Dialogue] = []
        self._talk = self._new(persona)

    @property
    def persona(self) -> tuple[str, ...]:
        """Who replies."""
        return self._talk.persona

    @property
    def dialogue(self) -> Dialogue:
        """The present conversation, as far as it was answered."""
        last = self.last
        return last.context.answer(last.text) if last and last.text else self._talk

    @property
    def dialogues(self) -> list[Dialogue]:
        """Every conversation in which something was answered, oldest first."""
        return [talk for talk in (*self._earlier, self.dialogue) if talk.turns]

    def say(self, text: str) -> Generator[Chunk, None, None]:
        """Reply to `text`, piece by piece; closing the generator stops the reply and keeps what was said.

        Args:
            text: the user's message.

        Raises:
            UsageError: no such prompt, or a reply that does not fit the model's window; the message is then forgotten.
            DataError: a message that does not fit the model's window; it is forgotten too.
        """
        before = self.dialogue
        previous = self.last.selection if self.last else None
        context = before.say(clean(text))
        selection = self._select(context, previous)
        yield from self._speak(Exchange(context, "", selection, self._reason(selection)), self._decoding)

    def retry(self) -> Generator[Chunk, None, None]:
        """Another reply instead of the last one: sampled, from the same prompt or else the forced one.

        Raises:
            UsageError: nothing was said yet.
        """
        last = self._need_last()
        prompt = last.selection.prompt if self.prompt is None else self.prompt
        [selection] = self.engine.select([last.context], prompt=prompt)
        reason = last.reason if self.prompt is None else "forced"
        again = Exchange(last.context, "", selection, reason, attempt=last.attempt + 1)
        yield from self._speak(again, another(self._decoding, again.attempt))

    def why(self) -> Why:
        """The last reply's scores, and what each other prompt would have said, generated in one batch.

        Raises:
            UsageError: nothing was said yet.
        """
        last, weights = self._need_last(), self._weights()
        said = {} if weights else {last.selection.prompt: last.text}
        others = [k for k in range(self.engine.num_prompts) if k not in said]
        replies = self.engine.generate([last.context] * len(others), decoding=self._decoding, prompt=others)
        said |= zip(others, (clean(reply.text) for reply in replies), strict=True)
        return Why(last, tuple(said[k] for k in range(self.engine.num_prompts)), weights)

    def reset(self, persona: Sequence[str] | None = None) -> None:
        """Begin a new conversation, as `persona` where it is given."""
        self._earlier = self.dialogues
        self.last = None
        self._talk = self._new(self.persona if persona is None else persona)

    def save(self, path: Path, *, force: bool = False) -> int:
        """Write every conversation to `path`, one JSON object a line (docs/data.md), whole or not at all.

        Returns:
            How many were written.

        Raises:
            UsageError: nothing was answered yet, or `path` exists without `force`.
            StorageError: the file cannot be written.
        """
        talks = self.dialogues
        if not talks:
            raise UsageError("nothing to save yet: say something first")
        save_dialogues(talks, path, force=force)
        return len(talks)

    def _new(self, persona: Sequence[str]) -> Dialogue:
        return Dialogue(f"chat-{len(self._earlier) + 1}", tuple(map(clean, persona)), ())

    def _need_last(self) -> Exchange:
        if self.last is None:
            raise UsageError("there is no reply yet: say something first")
        return self.last

    def _weights(self) -> tuple[float, ...] | None:
        """Of the prompts that spoke the last reply together; None where one spoke alone."""
        last = self._need_last()
        return None if last.reason == "forced" else self.engine.mixture(last.selection, self._decoding)

    def _select(self, context: Dialogue, previous: Selection | None) -> Selection:
        if self._sticky is None:
            return self.engine.select([context], prompt=self.prompt)[0]
        return self.engine.select([context], prompt=self.prompt, previous=[previous], threshold=self._sticky)[0]

    def _reason(self, selection: Selection) -> Reason:
        if self.prompt is not None:
            return "forced"
        return "retriever" if selection.scores[selection.prompt] == max(selection.scores) else "kept"

    def _speak(self, exchange: Exchange, decoding: Decoding | None) -> Generator[Chunk, None, None]:
        """Stream a reply, and remember it as the last exchange however the stream ends, but not when it fails."""
        said = ""
        stream = self.engine.stream(
            exchange.context,
            decoding=decoding,
            prompt=self.prompt,
            previous=exchange.selection,  # what was chosen already stays
            threshold=math.inf,
        )
        with closing(stream):
            try:
                for chunk in stream:
                    piece = replace(chunk, text=clean(chunk.text))
                    said += piece.text
                    if piece.reply and piece.reply.selection.prompt != exchange.selection.prompt:
                        exchange = replace(exchange, selection=piece.reply.selection, reason="candidate")
                    yield piece
            except (GeneratorExit, KeyboardInterrupt):
                self._remember(replace(exchange, text=said.strip(), complete=False))
                raise
        self._remember(replace(exchange, text=said.strip()))

    def _remember(self, exchange: Exchange) -> None:
        if self.last and exchange.attempt and not exchange.text:
            self.last = replace(self.last, attempt=exchange.attempt)  # a retry that said nothing takes nothing away
            return
        self._talk = replace(exchange.context, turns=exchange.context.turns[:-1])
        self.last = exchange


def another(decoding: Decoding | None, attempt: int) -> Decoding:
    """`decoding` changed so that it draws another reply: sampled, without beams, and from another seed."""
    from sptune.model.generate import Decoding

    decoding = decoding or Decoding()
    if decoding.temperature == 0:
        decoding = replace(decoding, temperature=RETRY_TEMPERATURE, top_p=RETRY_TOP_P)
    seed = None if decoding.seed is None else decoding.seed + attempt
    return replace(decoding, num_beams=1, seed=seed)
