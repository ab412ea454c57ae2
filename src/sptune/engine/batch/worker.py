"""The thread that runs the model: lets requests into the batch between two tokens, and closed or ended ones out."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from sptune.engine.batch.choice import next_tokens, spoken_together
from sptune.engine.batch.kept_contexts import Beginning, KeptContexts
from sptune.engine.batch.prefill import Prefill
from sptune.engine.batch.reply import Reply
from sptune.engine.batch.single_rows import SingleRows
from sptune.engine.batch.slot_rows import SlotRows
from sptune.engine.serving import Piece, UnavailableError
from sptune.errors import SptError
from sptune.model.prefix import find_way

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.engine.prepared import Prepared
    from sptune.model.backbone import Backbone

News: TypeAlias = Piece | SptError | None
"""What a job receives: a piece, an error that ends it, or None: it was closed and has left."""


@dataclass(slots=True, eq=False)
class Job:
    """A request in the hands of the worker.

    Attributes:
        prepared: what is answered.
        receive: called in the event loop's thread with everything that comes of it.
        closed: set by whoever no longer wants the reply.
    """

    prepared: Prepared
    receive: Callable[[News], None]
    closed: bool = False

    def close(self) -> None:
        """Let the worker drop it before the next token, and say so."""
        self.closed = True


@dataclass(slots=True, eq=False)
class _Speaking:
    """A reply under way.

    Attributes:
        token: that was said last.
        ended: whether it is to leave.
    """

    job: Job
    reply: Reply
    token: int = 0
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Row:
    """A reply under one of the prompts that speak it: a row of the cache.

    Attributes:
        state: (H,) predicts its next token.
        weight: of the prompt.
    """

    speaking: _Speaking
    state: Tensor
    weight: float


class Worker:
    """Generates the replies of all jobs.

    Args:
        backbone: the frozen model that all jobs share.
        slots: replies at a time, counted once for each prompt that speaks.
        places: of keys and values in memory, and as many again for contexts that were run lately.
        prefill: tokens of new contexts that are run between two tokens of the replies under way.
        post: hands news to the event loop; called in the worker's thread, must not block.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        slots: int,
        places: int,
        prefill: int,
        post: Callable[[Sequence[tuple[Job, News]]], None],
    ) -> None:
        self._backbone = backbone
        self._slots, self._places, self._prefill_tokens = slots, places, prefill
        self._post = post
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._stopping = False
        self._begin_anew()
        self._thread = threading.Thread(target=self._work, name="sptune-batch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the token at hand; jobs that are left fail."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Take a job; may be called from any thread, before `stop`."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    @property
    def running(self) -> int:
        """Replies that have a slot."""
        return len({id(row.speaking) for row in list(self._rows)}) + len(self._coming)

    def _begin_anew(self) -> None:
        kind = SlotRows if find_way(self._backbone) == "packed" else SingleRows
        self._cache = kind(self._backbone, slots=self._slots, places=self._places)
        self._kept = KeptContexts(self._places if kind.together else 0)
        self._rows: list[_Row] = []  # as they stand in the cache
        self._prefills: list[Prefill] = []
        self._coming: list[Job] = []  # those of the prefills

    @torch.inference_mode()
    def _work(self) -> None:
        while self._wait():
            try:
                self._let_closed_go()
                self._run_contexts()
                self._speak()
            except Exception as error:  # whatever the model raises: those in the batch fail, the server goes on
                logging.getLogger(__name__).error("the model failed on a batch of %d", self.running, exc_info=error)
                self._fail(UnavailableError(f"the model failed ({type(error).__name__}); try again"))
        self._fail(UnavailableError("the server stops; try again later"), everyone=True)

    def _wait(self) -> bool:
        """Sleep while there is nothing to do; whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting or self.running)
            return not self._stopping

    def _fail(self, error: SptError, *, everyone: bool = False) -> None:
        jobs = list(dict.fromkeys(row.speaking.job for row in self._rows)) + self._coming
        self._begin_anew()
        if everyone:
            jobs += self._waiting
            self._waiting.clear()
        self._tell([(job, error) for job in jobs])

    def _let_closed_go(self) -> None:
        for row in self._rows:
            row.speaking.ended = row.speaking.job.closed
        gone = list(dict.fromkeys(row.speaking.job for row in self._drop_ended()))
        with self._changed:
            closed = [job for job in self._waiting if job.closed]
            for job in closed:
                self._waiting.remove(job)
        if self._coming and all(job.closed for job in self._coming):
            gone += self._coming
            self._prefills, self._coming = [], []
        self._tell([(job, None) for job in gone + closed])

    def _drop_ended(self) -> list[_Row]:
        dropped = [row for row in self._rows if row.speaking.ended]
        for number in reversed(range(len(self._rows))):
            if self._rows[number].speaking.ended:
                self._cache.remove(number)
                self._rows[number] = self._rows[-1]
                self._rows.pop()
        return dropped

    def _run_contexts(self) -> None:
        """Run the next part of the contexts that are coming in, and let them in once it was the last."""
        if not self._prefills:
            beginning = self._admit()
            if not self._coming:
                return
            embeddings = [job.prepared.embeddings(k) for job in self._coming for k in job.prepared.speakers]
            parts = [embeddings] if self._cache.together else [[one] for one in embeddings]
            self._prefills = [Prefill(self._backbone, part, beginning=beginning) for part in parts]
        next(prefill for prefill in self._prefills if not prefill.finished).run(self._prefill_tokens)
        if all(prefill.finished for prefill in self._prefills):
            self._let_in()

    def _let_in(self) -> None:
        """Make rows of the contexts that were run."""
        speakers = [(job, k) for job in self._coming for k in job.prepared.speakers]
        needs = [job.prepared.places for job, _ in speakers]
        if self._cache.together:
            [prefill] = self._prefills
            for row, (job, k) in enumerate(speakers):
                self._kept.keep(job.prepared, prefill.cache, prompt=k, row=row)
            self._cache.add(prefill, needs)
        else:
            for prefill, need in zip(self._prefills, needs, strict=True):
                self._cache.add(prefill, [need])
        speaking = {job: _Speaking(job, Reply(job.prepared)) for job in self._coming}
        states = [state for prefill in self._prefills for state in prefill.states()]
        self._rows += [
            _Row(speaking[job], state, job.prepared.weights[k])
            for (job, k), state in zip(speakers, states, strict=True)
        ]
        self._prefills, self._coming = [], []

    def _admit(self) -> Beginning | None:
        """Let those that waited longest in, as many as there is room for and as can well be run side by side.

        Returns:
            What is known of the context where one comes in alone.
        """
        longest, needs = 0, list[int]()
        with self._changed:
            while self._waiting:
                prepared = self._waiting[0].prepared
                needs += [prepared.places] * len(prepared.speakers)
                if not self._cache.fits(needs):
                    break
                beginning = self._kept.beginning(prepared)
                longest = max(longest, prepared.prompt_tokens)
                together = self._cache.together and longest * len(needs) <= self._prefill_tokens
                if self._coming and (beginning or not together):
                    break
                self._coming.append(self._waiting.popleft())
                if beginning:
                    return beginning
        return None

    def _speak(self) -> None:
        """Give every reply its next token, send what comes of it, and run the tokens of those that go on."""
        if not self._rows:
            return
        rows: dict[_Speaking, list[_Row]] = {}
        for row in self._rows:
            rows.setdefault(row.speaking, []).append(row)
        ordered = [row for own in rows.values() for row in own]
        states = torch.stack([row.state for row in ordered])  # (R, H)
        finite = states.isfinite().all(1).tolist()
        broken = {row.speaking for row, good in zip(ordered, finite, strict=True) if not good}
        weights = [[row.weight for row in own] for own in rows.values()]
        logits = spoken_together(self._backbone.head(states), weights)  # (n, V)
        tokens = next_tokens(logits, [speaking.reply for speaking in rows])
        news: list[tuple[Job, News]] = []
        for speaking, token, one in zip(rows, tokens, logits, strict=True):
            speaking.token = token
            new = _not_finite() if speaking in broken else _taken(speaking.reply, token, one)
            speaking.ended = speaking.reply.finish is not None or isinstance(new, SptError)
            if new is not None:
                news.append((speaking.job, new))
        self._tell(news)
        self._drop_ended()
        if self._rows:
            advanced = self._cache.advance([row.speaking.token for row in self._rows])
            for row, state in zip(self._rows, advanced, strict=True):
                row.state = state

    def _tell(self, news: Sequence[tuple[Job, News]]) -> None:
        if news:
            self._post(news)


def _taken(reply: Reply, token: int, logits: Tensor) -> Piece | SptError | None:
    """What comes of a token; a reply that cannot be spelled fails alone."""
    try:
        return reply.take(token, logits)
    except Exception as error:
        logging.getLogger(__name__).error("a reply could not be spelled", exc_info=error)
        return UnavailableError(f"the reply could not be spelled ({type(error).__name__})")


def _not_finite() -> SptError:
    return UnavailableError(
        "the model's numbers are not finite for this adapter; it was trained badly or is damaged, get it again"
    )
