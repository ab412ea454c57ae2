"""The parts of an evaluation: score the gold responses, rank candidates, generate or choose replies, measure them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptune.data.dialogue import data_hash
from sptune.evaluation.candidate_replies import Reranking, make_candidates
from sptune.evaluation.generation import (
    Generation,
    GenerationInterrupted,
    chosen_reply,
    generate_replies,
    measure,
    with_bertscore,
)
from sptune.evaluation.metrics import bertscore
from sptune.evaluation.partial import PartialCandidates
from sptune.evaluation.ranking import rank_turns
from sptune.evaluation.records import write_records
from sptune.evaluation.result import (
    CANDIDATES_NAME,
    GENERATIONS_NAME,
    PARTIAL_CANDIDATES_NAME,
    PARTIAL_NAME,
    model_info,
)
from sptune.evaluation.scoring import score_turns
from sptune.model.generate import rules_of

if TYPE_CHECKING:
    from sptune.evaluation.metrics.profile import MetricReport
    from sptune.evaluation.ranking import TurnRank
    from sptune.evaluation.rerank import TurnCandidates
    from sptune.evaluation.run import Settings
    from sptune.evaluation.scoring import TurnScore
    from sptune.evaluation.turns import ChosenTurn, Progress
    from sptune.model.spt import SPTModel


class Parts:
    """The parts of one evaluation, each timed, and empty where it was not asked for.

    Args:
        model: the model.
        settings: of the evaluation.
        progress: called as work gets done.
    """

    def __init__(self, model: SPTModel, settings: Settings, progress: Progress | None) -> None:
        self.model = model
        self.settings = settings
        self.progress = progress
        forced = settings.prompt is not None or settings.rerank is not None
        alone = settings.prompt is not None or settings.rule != "top1"
        self.rerank = settings.rerank.alone() if settings.rerank and alone else settings.rerank
        self.decoding = settings.decoding.meant(model.speakers, rule=settings.rule, forced=forced)
        self.speakers = self.decoding.speakers(model.speakers)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure the time of a part."""
        begin = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - begin, 3)

    def score(self, turns: Sequence[ChosenTurn]) -> list[TurnScore]:
        """Likelihood of the gold responses."""
        if "likelihood" not in self.settings.parts:
            return []
        with self.timed("likelihood"):
            return score_turns(
                self.model,
                turns,
                gate_temperature=self.speakers.gate_temperature,
                token_budget=self.settings.token_budget,
                progress=self.progress,
            )

    def rank(self, turns: Sequence[ChosenTurn]) -> list[TurnRank]:
        """Ranks of the gold responses among their candidates."""
        if "ranking" not in self.settings.parts:
            return []
        with self.timed("ranking"):
            return rank_turns(
                self.model,
                turns,
                kind=self.speakers.kind,
                gate_temperature=self.speakers.gate_temperature,
                reranking=self.rerank,
                progress=self.progress,
            )

    def generate(self, turns: Sequence[ChosenTurn], output: Path | None) -> list[Generation]:
        """A reply to every turn, written to `output` when all are there, or what there is on Ctrl-C; then scored by an encoder."""
        if "generation" not in self.settings.parts:
            return []
        try:
            with self.timed("generation"):
                made = self._choose(turns, self.rerank, output) if self.rerank else self._say(turns)
        except GenerationInterrupted as stop:
            if output and stop.done:
                write_records(output / PARTIAL_NAME, stop.done)
                raise GenerationInterrupted(stop.done, stop.total, output / PARTIAL_NAME) from None
            raise
        if output:
            write_records(output / GENERATIONS_NAME, made)
        name = self.settings.bertscore_model
        return self._bertscored(made, name, output) if name and bertscore.installed() else made

    def _bertscored(self, made: Sequence[Generation], encoder: str, output: Path | None) -> list[Generation]:
        """Replies with their BERTScore, which stand in `output` already: scoring may take long."""
        with self.timed("bertscore"), _all_made(made, output):
            scored = with_bertscore(made, bertscore.load_encoder(encoder))
        if output:
            write_records(output / GENERATIONS_NAME, scored)
        return scored

    def _say(self, turns: Sequence[ChosenTurn]) -> list[Generation]:
        return generate_replies(
            self.model,
            turns,
            decoding=self.decoding,
            token_budget=self.settings.token_budget,
            progress=self.progress,
        )

    def _choose(self, turns: Sequence[ChosenTurn], how: Reranking, output: Path | None) -> list[Generation]:
        """A reply to every turn, chosen among candidates, which are kept beside it; an evaluation that was stopped goes on."""
        partial = PartialCandidates(
            output / PARTIAL_CANDIDATES_NAME if output else None, self._identity(turns, how) if output else {}
        )
        try:
            for batch in self._candidates(
                [turn for turn in turns if not partial.get(*_place(turn))], how, len(partial)
            ):
                partial.add(batch)
        except KeyboardInterrupt as stop:
            made = _all(turns, partial)
            raise GenerationInterrupted([chosen_reply(one, how.weights) for one in made], len(turns)) from stop
        made = _all(turns, partial)
        if output:
            write_records(output / CANDIDATES_NAME, made)
        return [chosen_reply(one, how.weights) for one in made]

    def _candidates(
        self, turns: Sequence[ChosenTurn], how: Reranking, before: int
    ) -> Iterator[Sequence[TurnCandidates]]:
        """The candidates of turns that have none yet, where those of `before` others are there."""
        show = self.progress
        return make_candidates(
            self.model,
            turns,
            sampling=how.sampling,
            rules=rules_of(self.model, self.decoding),
            gate_temperature=self.speakers.gate_temperature,
            token_budget=self.settings.token_budget,
            progress=show and (lambda part, done, total: show(part, before + done, before + total)),
        )

    def _identity(self, turns: Sequence[ChosenTurn], how: Reranking) -> dict[str, Any]:
        """What candidates depend on; how they are weighed is not among it."""
        return {
            "model": asdict(model_info(self.model, None)),
            "weights": self.model.backbone.weights_hash(),  # the adapter's, and the base's embeddings, are in `model`
            "contexts": sha256(json.dumps([turn.context_ids for turn in turns]).encode()).hexdigest(),
            "stops": list(self.model.stops),
            "dialogues": data_hash(list({turn.dialogue.id: turn.dialogue for turn in turns}.values())),
            "prompts": [turn.selection.prompt for turn in turns],
            "sampling": asdict(how.sampling),
            "decoding": asdict(self.decoding),
            "gate_temperature": self.speakers.gate_temperature,
        }

    def measure(self, generations: Sequence[Generation], output: Path | None) -> MetricReport | None:
        """Metrics of the replies, which stand in `output` already."""
        if not generations:
            return None
        with self.timed("metrics"), _all_made(generations, output):
            wanted = self.settings
            return measure(
                generations, profile=wanted.profile, bertscore_model=wanted.bertscore_model, seed=wanted.seed
            )


@contextmanager
def _all_made(replies: Sequence[Generation], output: Path | None) -> Iterator[None]:
    """On Ctrl-C, tell that every reply was made, and where they are: measuring them may take long."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise GenerationInterrupted(replies, len(replies), output and output / GENERATIONS_NAME) from stop


def _place(turn: ChosenTurn) -> tuple[str, int]:
    return turn.dialogue.id, turn.span.turn


def _all(turns: Sequence[ChosenTurn], partial: PartialCandidates) -> list[TurnCandidates]:
    """The candidates that are there, in the order of the turns."""
    found = (partial.get(*_place(turn)) for turn in turns)
    return [one for one in found if one]
