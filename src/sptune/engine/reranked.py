"""The local engine with sample-and-rerank: the reply that is said is the best of several candidates."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from sptune.data.encoder import TokenSequence, TurnSpan
from sptune.engine.base import Chunk
from sptune.engine.local import LocalEngine
from sptune.evaluation.candidate_replies import Reranking, make_candidates
from sptune.evaluation.generation import chosen_reply
from sptune.evaluation.turns import ChosenTurn
from sptune.model.generate import check_window, rules_of
from sptune.model.spt import Reply

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue
    from sptune.model.generate import Decoding
    from sptune.model.selection import Selection
    from sptune.model.spt import SPTModel


class RerankingEngine(LocalEngine):
    """A `LocalEngine` whose streamed replies are chosen among candidates, and so come whole (docs/evaluation.md, `rerank`).

    Where a prompt is forced, it alone draws and weighs the candidates. A reply that is asked for with a temperature is drawn as it is, and
    `generate` is that of `LocalEngine`: what single prompts would say.

    Args:
        model: the model.
        how: which candidates are drawn, and what chooses among them.
    """

    def __init__(self, model: SPTModel, how: Reranking) -> None:
        super().__init__(model)
        self._how = how

    def _begin(
        self, context: Dialogue, ids: tuple[int, ...], selection: Selection, decoding: Decoding, *, forced: bool
    ) -> Generator[Chunk, None, None]:
        """The best reply in one chunk. Its prompt is the one that it was drawn from, that of the context where it is of a mixture."""
        if decoding.temperature > 0:
            return super()._begin(context, ids, selection, decoding, forced=forced)
        span = TurnSpan(len(context.turns) - 1, len(ids), len(ids), 0)
        turn = ChosenTurn(TokenSequence(context, ids, (span,)), span, selection)
        return self._best(turn, decoding, self._how.alone() if forced else self._how)

    def _best(self, turn: ChosenTurn, decoding: Decoding, how: Reranking) -> Generator[Chunk, None, None]:
        check_window(self.model, len(turn.context_ids), decoding.max_new_tokens)
        rules, tau = rules_of(self.model, decoding), decoding.speakers(self.model.speakers).gate_temperature
        with self._running:
            [[drawn]] = make_candidates(self.model, [turn], sampling=how.sampling, rules=rules, gate_temperature=tau)
        chosen = chosen_reply(drawn, how.weights)
        text, selection = chosen.prediction, replace(turn.selection, prompt=chosen.prompt)
        yield Chunk(text, Reply(text, selection, self.model.encoder.response_ids(text)))
