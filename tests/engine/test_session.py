from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fake_engine import FakeEngine
from sptune.data.dialogue import Turn
from sptune.data.load import load_dialogues
from sptune.engine.base import Chunk
from sptune.engine.session import Session, another
from sptune.errors import DataError, UsageError
from sptune.model.generate import Decoding


def hear(chunks: Iterator[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def session(engine: FakeEngine) -> Session:
    return Session(engine, persona=["I sail."])  # type: ignore[arg-type]


def test_a_conversation_grows_by_what_was_said(session: Session) -> None:
    assert hear(session.say("hi")) == "prompt 1 answers hi"
    assert hear(session.say("and?")) == "prompt 1 answers and?"
    assert session.dialogue.turns == (Turn("hi", "prompt 1 answers hi"), Turn("and?", "prompt 1 answers and?"))
    assert session.dialogue.persona == session.persona == ("I sail.",)
    assert session.last is not None
    assert (session.last.reason, session.last.complete, session.last.attempt) == ("retriever", True, 0)


def test_an_empty_reply_is_no_part_of_the_conversation_but_can_be_retried(session: Session) -> None:
    hear(session.say("hi"))
    assert hear(session.say("silence")) == ""
    assert [turn.user for turn in session.dialogue.turns] == ["hi"]
    assert session.last is not None
    assert session.last.context.turns[-1].user == "silence"


def test_a_closed_reply_keeps_what_was_said(
    engine: FakeEngine, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = engine.stream(session.dialogue.say("story"), prompt=0)
    monkeypatch.setattr(engine, "stream", lambda *_, **__: stream)
    with closing(session.say("story")) as chunks:
        said = "".join(next(chunks).text for _ in range(3))
    with pytest.raises(StopIteration):  # the engine's stream was closed too
        next(stream)
    assert said == "word0 word1 word2"
    assert session.dialogue.turns == (Turn("story", said),)
    assert session.last is not None
    assert not session.last.complete


def test_a_reply_closed_before_its_first_word_is_forgotten_from_the_conversation(session: Session) -> None:
    chunks = session.say("story")
    chunks.close()
    assert session.dialogue.turns == ()


def test_a_message_that_fails_leaves_the_conversation_as_it_was(session: Session) -> None:
    hear(session.say("hi"))
    before = session.dialogue, session.last
    with pytest.raises(DataError):
        hear(session.say("too long"))
    with pytest.raises(RuntimeError):
        hear(session.say("break"))
    assert (session.dialogue, session.last) == before
    hear(session.say("still there?"))
    assert [turn.user for turn in session.dialogue.turns] == ["hi", "still there?"]


@pytest.mark.parametrize(
    ("sticky", "prompts", "reasons"),
    [
        (None, [0, 1, 2], ["retriever", "retriever", "retriever"]),
        (0.25, [0, 0, 2], ["retriever", "kept", "retriever"]),
        (0.9, [0, 0, 0], ["retriever", "kept", "kept"]),
    ],
)
def test_sticky_keeps_the_prompt_unless_beaten_by_the_margin(
    sticky: float | None, prompts: list[int], reasons: list[str]
) -> None:
    engine = FakeEngine(scores=[(0.5, 0.1, 0.1), (0.3, 0.5, 0.1), (0.1, 0.2, 0.8)])
    session = Session(engine, sticky=sticky)  # type: ignore[arg-type]
    spoke = []
    for text in ("one", "two", "three"):
        hear(session.say(text))
        assert session.last is not None
        spoke.append((session.last.selection.prompt, session.last.reason))
    assert spoke == list(zip(prompts, reasons, strict=True))


def test_control_characters_are_dropped_everywhere(engine: FakeEngine) -> None:
    session = Session(engine, persona=["I \x1b[2Jsail."])  # type: ignore[arg-type]
    engine._text = lambda *_: "a\x07 b\x9bc\td\ud800"  # type: ignore[method-assign]
    assert hear(session.say("h\ri")) == "a bc\td"
    assert session.dialogue.persona == ("I [2Jsail.",)
    assert session.dialogue.turns == (Turn("hi", "a bc\td"),)
    assert set(session.why().replies) == {"a bc\td"}


def test_a_new_conversation_forgets_the_sticky_prompt() -> None:
    engine = FakeEngine(scores=[(0.1, 0.2)])
    session = Session(engine, prompt=0, sticky=9.0)  # type: ignore[arg-type]
    hear(session.say("hi"))
    session.prompt = None
    session.reset()
    hear(session.say("hi"))
    assert session.last is not None
    assert session.last.selection.prompt == 1


def test_a_forced_prompt_speaks(session: Session) -> None:
    session.prompt = 2
    assert hear(session.say("hi")) == "prompt 2 answers hi"
    assert session.last is not None
    assert session.last.reason == "forced"


def test_retry_asks_the_same_prompt_for_the_same_message_and_replaces_the_reply(
    engine: FakeEngine, session: Session
) -> None:
    hear(session.say("hi"))
    hear(session.say("and?"))
    assert session.last is not None
    context = session.last.context
    assert hear(session.retry()) == "prompt 1 answers and?"
    assert session.last.context == context
    assert session.last.attempt == 1
    assert len(session.dialogue.turns) == 2
    decoding = engine.calls[-1][1]["decoding"]
    assert decoding.temperature > 0


def test_retry_uses_a_prompt_that_was_forced_since(session: Session) -> None:
    hear(session.say("hi"))
    session.prompt = 0
    assert hear(session.retry()) == "prompt 0 answers hi"
    assert session.dialogue.turns == (Turn("hi", "prompt 0 answers hi"),)


def test_a_retry_that_says_nothing_takes_nothing_away(session: Session) -> None:
    hear(session.say("hi"))
    with closing(session.retry()) as chunks:
        next(chunks)
    assert session.dialogue.turns == (Turn("hi", "prompt"),)
    before = session.dialogue
    session.engine._text = lambda *_: ""  # type: ignore[attr-defined]
    hear(session.retry())
    assert session.dialogue == before
    assert session.last is not None
    assert session.last.attempt == 2  # so that the next one draws from another seed


def test_another_samples_from_another_seed() -> None:
    greedy = another(Decoding(num_beams=4, seed=3), 2)
    assert greedy.num_beams == 1
    assert greedy.seed == 5
    assert greedy.temperature > 0
    sampled = Decoding(temperature=0.3, top_p=0.5)
    assert another(sampled, 1) == sampled
    assert another(None, 1).temperature > 0


def test_why_asks_each_other_prompt_in_one_batch(engine: FakeEngine, session: Session) -> None:
    hear(session.say("hi"))
    why = session.why()
    assert why.replies == ("prompt 0 answers hi", "prompt 1 answers hi", "prompt 2 answers hi")
    assert why.exchange is session.last
    batches = [options for name, options in engine.calls if name == "generate"]
    assert [list(batch["prompt"]) for batch in batches] == [[0, 2]]


def test_why_shows_what_was_said_where_it_was_stopped(session: Session) -> None:
    with closing(session.say("story")) as chunks:
        next(chunks)
    assert session.why().replies[1] == "word0"


@pytest.mark.parametrize("ask", ["retry", "why"])
def test_nothing_to_explain_or_retry_at_first(session: Session, ask: str) -> None:
    with pytest.raises(UsageError, match="say something first"):
        list(getattr(session, ask)())


def test_save_writes_every_conversation_in_a_form_that_loads(session: Session, tmp_path: Path) -> None:
    hear(session.say("hi"))
    session.reset()
    hear(session.say("silence"))
    session.reset(["I bake.", "I am old."])
    hear(session.say("hello"))
    file = tmp_path / "talk.jsonl"
    assert session.save(file) == 2
    talks = load_dialogues(file)
    assert [(talk.persona, len(talk.turns)) for talk in talks] == [(("I sail.",), 1), (("I bake.", "I am old."), 1)]
    assert len({json.loads(line)["id"] for line in file.read_text().splitlines()}) == 2


def test_save_does_not_overwrite_unless_forced(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text("precious")
    hear(session.say("hi"))
    with pytest.raises(UsageError, match="exists"):
        session.save(file)
    assert file.read_text() == "precious"
    assert session.save(file, force=True) == 1
    assert len(load_dialogues(file)) == 1


def test_nothing_to_save(session: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to save"):
        session.save(tmp_path / "talk.jsonl")
