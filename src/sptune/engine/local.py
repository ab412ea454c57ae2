"""The engine on this machine: transformers, one batch at a time, streaming from a worker thread."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from sptune.engine.base import Chunk, Forced
from sptune.errors import UsageError
from sptune.model.generate import Decoding, PromptedContext, context_room, generate_tokens, said_in, speaker
from sptune.model.selection import Selection, SelectionRule, select, stay
from sptune.model.spt import Reply, SPTModel

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows for a character whose last bytes are still to come
_LOCK_POLL = 0.05  # seconds between two looks at whether a waiting stream was closed


class LocalEngine:
    """An `Engine` on a model in this process. Safe to use from several threads; they take turns.

    Args:
        model: the model.
    """

    def __init__(self, model: SPTModel) -> None:
        self.model = model
        self._running = threading.Lock()  # sampling draws from one random state, so two generations must not mix

    @property
    def num_prompts(self) -> int:
        """K."""
        return self.model.prompts.count

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
        """See `Engine.select`."""
        return self._choose(self._encode(contexts), _Choice(rule, prompt, previous, threshold, seed))

    def mixture(self, selection: Selection, decoding: Decoding | None = None) -> tuple[float, ...] | None:
        """See `Engine.mixture`."""
        speakers = (decoding or Decoding()).speakers(self.model.speakers)
        return None if speakers.kind == "top1" else speakers.weights(selection)

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
        """See `Engine.generate`."""
        decoding = (decoding or Decoding()).meant(self.model.speakers, rule=rule)
        ids = self._encode(contexts, room=context_room(self.model, decoding))
        selections = self._choose(ids, _Choice(rule, prompt, previous, threshold, decoding.seed))
        rows = [
            self._speaker(context, row, chosen, decoding, forced=k is not None)
            for context, row, chosen, k in zip(contexts, ids, selections, _each(prompt, len(ids)), strict=True)
        ]
        return self._replies(self._run(rows, decoding) if rows else [], selections)

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
        """See `Engine.stream`."""
        decoding = (decoding or Decoding()).meant(self.model.speakers, rule=rule)
        ids = self._encode([context], room=context_room(self.model, decoding))
        [selection] = self._choose(ids, _Choice(rule, prompt, [previous], threshold, decoding.seed))
        return self._begin(context, ids[0], selection, decoding, forced=prompt is not None)

    def _begin(
        self, context: Dialogue, ids: tuple[int, ...], selection: Selection, decoding: Decoding, *, forced: bool
    ) -> Generator[Chunk, None, None]:
        """The stream of the reply to a context of those tokens, under the prompt that was chosen or forced."""
        row = self._speaker(context, ids, selection, decoding, forced=forced)
        return self._stream(row, selection, decoding)

    def _speaker(
        self, context: Dialogue, ids: tuple[int, ...], selection: Selection, decoding: Decoding, *, forced: bool
    ) -> PromptedContext:
        """Who speaks: as `decoding` says, but a forced prompt speaks alone."""
        speakers = decoding.speakers(self.model.speakers, forced=forced)
        return speaker(ids, selection, speakers, said=said_in(self.model, context))

    def _encode(self, contexts: Sequence[Dialogue], *, room: int | None = None) -> list[tuple[int, ...]]:
        return [self.model.encoder.encode_context(context, room=room).input_ids for context in contexts]

    def _choose(self, ids: Sequence[Sequence[int]], choice: _Choice) -> list[Selection]:
        if not ids:
            return []
        scores = self.model.scores_of_ids(ids)
        generator = None if choice.seed is None else torch.Generator().manual_seed(choice.seed)
        free = select(scores, rule=choice.rule, generator=generator)
        forced = _each(choice.prompt, len(ids))
        before = choice.previous or [None] * len(ids)
        for name, values in (("prompt", forced), ("previous", before)):
            if len(values) != len(ids):
                raise UsageError(f"{name}: {len(values)} values for {len(ids)} contexts; give one for each")
        return [
            stay(last, chosen, threshold=choice.threshold) if k is None else select(row[None], prompt=k)[0]
            for row, chosen, k, last in zip(scores, free, forced, before, strict=True)
        ]

    def _replies(self, tokens: Sequence[Sequence[int]], selections: Sequence[Selection]) -> list[Reply]:
        return [Reply(self.model.text(new), chosen, tuple(new)) for new, chosen in zip(tokens, selections, strict=True)]

    def _run(
        self,
        rows: Sequence[PromptedContext],
        decoding: Decoding,
        *,
        streamer: BaseStreamer | None = None,
        closed: threading.Event | None = None,
    ) -> list[list[int]]:
        """New tokens of each row. Stops end a row early, except in beam search, whose winner they would change."""
        closed = closed or threading.Event()
        ends = _Ends(self.model, self.model.stops if decoding.num_beams == 1 else (), closed)
        while not self._running.acquire(timeout=_LOCK_POLL):
            if closed.is_set():
                return [[] for _ in rows]
        try:
            stopping = StoppingCriteriaList([ends])
            return generate_tokens(self.model, rows, decoding=decoding, streamer=streamer, stopping=stopping)
        finally:
            self._running.release()

    def _stream(self, row: PromptedContext, selection: Selection, decoding: Decoding) -> Generator[Chunk, None, None]:
        fresh: SimpleQueue[list[int] | None] = SimpleQueue()
        streamer = _Tokens(fresh) if decoding.num_beams == 1 else None
        closed = threading.Event()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sptune-stream") as worker:
            job = worker.submit(self._run, [row], decoding, streamer=streamer, closed=closed)
            job.add_done_callback(lambda _: fresh.put(None))
            try:
                tokens: list[int] = []
                shown = 0
                while (new := fresh.get()) is not None:
                    tokens += new
                    text = settled_text(self.model.decode(tokens), self.model.stops)
                    if len(text) > shown:
                        yield Chunk(text[shown:])
                        shown = len(text)
                [reply] = self._replies(job.result(), [selection])
                yield Chunk(reply.text[shown:], reply)
            finally:
                closed.set()


@dataclass(frozen=True, slots=True)
class _Choice:
    """The arguments of `Engine.select`."""

    rule: SelectionRule
    prompt: Forced
    previous: Sequence[Selection | None] | None
    threshold: float
    seed: int | None


def _each(prompt: Forced, count: int) -> Sequence[int | None]:
    """The forced prompt of each context."""
    return prompt if isinstance(prompt, Sequence) else [prompt] * count


def settled_text(text: str, stops: Sequence[str]) -> str:
    """The part of a growing reply that nothing generated later can take back.

    Held back: white space at the end, an unfinished character, and an end that may be the beginning of a stop.

    Args:
        text: all that was generated so far.
        stops: texts that end a reply.

    >>> [settled_text(text, ["Q:"]) for text in (" i sail . Q", " i sail . Quick", " i sail . Q: so")]
    ['i sail .', 'i sail . Quick', 'i sail .']
    """
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)].strip()
    text = text.rstrip(_UNFINISHED)
    held = max((_overlap(text, stop) for stop in stops), default=0)
    return text[: len(text) - held].strip()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, short of the whole stop."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)


class _Ends(StoppingCriteria):
    """Ends a row once its text holds a stop, and every row once `closed` is set."""

    def __init__(self, model: SPTModel, stops: Sequence[str], closed: threading.Event) -> None:
        self._model = model
        self._stops = stops
        self._closed = closed
        self._ended: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which of the rows (n, new tokens) are finished: (n,) bool."""
        rows = range(input_ids.shape[0])
        if self._closed.is_set():
            self._ended.update(rows)
        elif self._stops:
            self._ended.update(row for row in rows if row not in self._ended and self._holds_stop(input_ids[row]))
        return torch.tensor([row in self._ended for row in rows], dtype=torch.bool, device=input_ids.device)

    def _holds_stop(self, tokens: Tensor) -> bool:
        text = self._model.decode(tokens.tolist())
        return any(stop in text for stop in self._stops)


class _Tokens(BaseStreamer):
    """Hands each new token to a queue."""

    def __init__(self, fresh: SimpleQueue[list[int] | None]) -> None:
        self._fresh = fresh

    def put(self, value: Tensor) -> None:
        """Take the next token of the one row; the first call brings the prompt's ids, of which there are none."""
        self._fresh.put(value.flatten().tolist())

    def end(self) -> None:
        """The worker says itself when it is done."""
