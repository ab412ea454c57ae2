"""The engine that says the best of several candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sptune.cli.chat_screen import why_table
from sptune.data.dialogue import Dialogue
from sptune.engine.base import Chunk, Engine
from sptune.engine.local import LocalEngine
from sptune.engine.reranked import RerankingEngine
from sptune.engine.session import Session
from sptune.errors import UsageError
from sptune.evaluation.candidate_replies import Reranking, Sampling, make_candidates
from sptune.evaluation.generation import chosen_reply
from sptune.evaluation.rerank import RerankWeights
from sptune.evaluation.turns import choose_prompts
from sptune.model.generate import Decoding, rules_of
from sptune.model.spt import SPTModel

SHORT = Decoding(max_new_tokens=12)
HOW = Reranking(Sampling(candidates=6, similarity="rouge"), RerankWeights(prior=0.75, consensus=10.0))

Make = Callable[..., SPTModel]


@pytest.fixture
def model(tiny_model: Make) -> SPTModel:
    return tiny_model()


def reply_to(engine: LocalEngine, context: Dialogue, decoding: Decoding = SHORT, **options: object) -> Chunk:
    [*pieces, last] = engine.stream(context, decoding=decoding, **options)  # type: ignore[arg-type]
    assert last.reply is not None
    assert "".join(piece.text for piece in (*pieces, last)) == last.reply.text
    return last


def test_it_says_what_an_evaluation_would_choose(model: SPTModel, dialogues: tuple[Dialogue, ...]) -> None:
    typed: Engine = RerankingEngine(model, HOW)
    assert typed.num_prompts == 3
    answered = [replace(talk, turns=talk.turns[:-1]).say("hm ?").answer("i sail") for talk in dialogues]
    turns = [turn for turn in choose_prompts(model, answered) if turn.span.turn == len(turn.dialogue.turns) - 1]
    batches = make_candidates(model, turns, sampling=HOW.sampling, rules=rules_of(model, SHORT))
    wanted = [chosen_reply(one, HOW.weights) for batch in batches for one in batch]
    engine = RerankingEngine(model, HOW)
    contexts = [talk.context(len(talk.turns) - 1) for talk in answered]
    found = [reply_to(engine, context) for context in contexts]
    assert [chunk.text for chunk in found] == [one.prediction for one in wanted]
    greedy = [reply_to(LocalEngine(model), context).text for context in contexts]
    assert greedy != wanted, "reranking chooses something else somewhere"
    for chunk, one, selection in zip(found, wanted, engine.select(contexts), strict=True):
        assert chunk.reply
        assert chunk.reply.selection.prompt == one.prompt
        assert chunk.reply.selection.scores == pytest.approx(selection.scores, abs=1e-6)


def test_the_prompt_may_be_forced(model: SPTModel, dialogues: tuple[Dialogue, ...]) -> None:
    """It alone draws the candidates and weighs them, whatever the gate thinks of it."""
    alone = HOW.alone()
    engine, context = RerankingEngine(model, HOW), dialogues[0].context(0)
    found = [reply_to(engine, context, prompt=k) for k in range(3)]
    turns = [turn for k in range(3) for turn in choose_prompts(model, dialogues[:1], prompt=k)[:1]]
    batches = make_candidates(model, turns, sampling=alone.sampling, rules=rules_of(model, SHORT))
    wanted = [chosen_reply(one, alone.weights).prediction for batch in batches for one in batch]
    assert [chunk.text for chunk in found] == wanted
    assert [chunk.reply.selection.prompt for chunk in found if chunk.reply] == [0, 1, 2]
    assert len({chunk.text for chunk in found}) > 1
    with pytest.raises(UsageError, match="prompt"):
        engine.stream(context, prompt=7)


def test_with_a_temperature_and_in_a_batch_it_is_the_local_engine(
    model: SPTModel, dialogues: tuple[Dialogue, ...]
) -> None:
    engine, plain, context = RerankingEngine(model, HOW), LocalEngine(model), dialogues[0].context(0)
    drawn = replace(SHORT, temperature=1.0, seed=3)
    assert reply_to(engine, context, drawn).text == reply_to(plain, context, drawn).text
    ours, theirs = (each.generate([context] * 3, decoding=SHORT, prompt=[0, 1, 2]) for each in (engine, plain))
    assert [reply.text for reply in ours] == [reply.text for reply in theirs]


def test_a_conversation_goes_on_with_what_was_said(model: SPTModel) -> None:
    session = Session(RerankingEngine(model, HOW), persona=["i sail ."], decoding=SHORT)
    for message in ("hello", "and you ?"):
        said = "".join(chunk.text for chunk in session.say(message))
        assert session.last
        assert session.last.text == said.strip()
    assert session.why().replies[session.last.selection.prompt] == session.last.text
    assert "".join(chunk.text for chunk in session.retry()) is not None


def test_a_chat_names_the_prompt_of_the_candidate(model: SPTModel, dialogues: tuple[Dialogue, ...]) -> None:
    """Its reply stands in its row of /why, and a retry asks it again."""
    engine = RerankingEngine(model, replace(HOW, sampling=replace(HOW.sampling, source="each")))
    reasons = set()
    for talk in dialogues:
        session = Session(engine, persona=talk.persona, decoding=SHORT)
        *_, last = session.say("hm ?")
        assert session.last
        assert last.reply
        spoke = last.reply.selection.prompt
        best = session.last.selection.scores.index(max(session.last.selection.scores))
        assert session.last.selection.prompt == spoke
        assert session.last.reason == ("retriever" if spoke == best else "candidate")
        assert session.why().replies[spoke] == session.last.text
        if spoke != best:
            assert f"Prompt {spoke} spoke: of all candidates, one of its own was chosen" in str(
                why_table(session.why()).caption
            )
        reasons.add(session.last.reason)
        list(session.retry())
        assert session.last.selection.prompt == spoke
    assert "candidate" in reasons


def test_a_reply_that_does_not_fit_the_window_is_refused(model: SPTModel, dialogues: tuple[Dialogue, ...]) -> None:
    with pytest.raises(UsageError, match=r"max_new_tokens: .* window"):
        list(RerankingEngine(model, HOW).stream(dialogues[0].context(0), decoding=Decoding(max_new_tokens=5000)))
