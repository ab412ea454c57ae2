"""From messages to a dialogue, and personas from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptune.data.dialogue import Turn, to_messages
from sptune.data.lines import clean
from sptune.errors import DataError
from sptune.server.conversation import read_conversation
from sptune.server.errors import ApiError
from sptune.server.personas import read_personas
from sptune.server.schemas.requests import ConversationBody
from tiny import DIALOGUES

PERSONAS = {"sailor": ("I sail.",)}
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)


def body(*messages: tuple[str, str], **fields: Any) -> ConversationBody:
    given = [{"role": role, "content": content} for role, content in messages]
    return ConversationBody.model_validate({"messages": given, **fields})


@pytest.mark.parametrize("talk", DIALOGUES, ids=lambda talk: talk.id)
def test_messages_written_by_the_project_are_read_back(talk):
    for turn in range(len(talk.turns)):
        context = talk.context(turn)
        messages = to_messages(context)["messages"]
        if messages:
            read = read_conversation(ConversationBody(messages=messages, persona=list(talk.persona)), {}, name=talk.id)
            assert [(t.user, t.response) for t in read.turns] == [(t.user, t.response) for t in context.turns]
            assert (read.id, read.persona) == (context.id, context.persona)


def test_messages_of_one_speaker_in_a_row_are_one():
    read = read_conversation(
        body(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")), {}
    )
    assert read.turns == (Turn("a\nb", "c\nd"), Turn("e"))


def test_the_persona_can_speak_first():
    assert read_conversation(body(("system", "I sail.")), {}).turns == (Turn(""),)
    assert read_conversation(body(("user", "")), {}).turns == (Turn(""),)
    first = read_conversation(body(("assistant", "ahoy"), ("user", "hi")), {})
    assert first.turns == (Turn("", "ahoy"), Turn("hi"))


def test_several_system_messages_are_one_persona():
    read = read_conversation(body(("system", "I sail. I bake!"), ("developer", "I sing."), ("user", "hi")), {})
    assert read.persona == ("I sail.", "I bake!", "I sing.")


@pytest.mark.parametrize(
    ("given", "fields", "message"),
    [
        ([("system", "x"), ("user", "a")], {"persona": ["y"]}, "send one of them"),
        ([("user", "a"), ("system", "x"), ("user", "b")], {}, "after the first turn"),
        ([("user", "a"), ("assistant", "b")], {}, "end with what the user says"),
        ([("user", "a"), ("assistant", " "), ("user", "b")], {}, "says nothing"),
        ([("user", "a")], {"persona": "baker"}, "no persona of that name"),
    ],
)
def test_conversations_that_cannot_be_answered(given: list[tuple[str, str]], fields: dict[str, Any], message: str):
    with pytest.raises(ApiError, match=message):
        read_conversation(body(*given, **fields), PERSONAS)


ROLES = st.sampled_from(["system", "developer", "user", "assistant"])


@given(
    st.lists(st.tuples(ROLES, TEXT), min_size=1, max_size=8),
    st.none() | st.sampled_from(["sailor", "x"]) | st.lists(TEXT.filter(bool)),
)
def test_whatever_is_sent_is_a_context_or_a_refusal(messages: list[tuple[str, str]], persona: Any):
    try:
        read = read_conversation(body(*messages, persona=persona), PERSONAS)
    except ApiError:
        return
    assert read.turns
    assert read.turns[-1].response is None
    assert all(turn.response for turn in read.turns[:-1])
    said = "".join(clean(text) for role, text in messages if role in {"user", "assistant"})
    kept = "".join(turn.user + (turn.response or "") for turn in read.turns)
    assert "".join(kept.split()) == "".join(said.split()), "no word is lost or added"


def write(folder: Path, text: str) -> Path:
    file = folder / "personas.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_personas_from_a_file(tmp_path: Path):
    file = write(tmp_path, "sailor: [I sail., 'I have: two dogs.']\nbaker: I bake. I sing.\n1: [I count.]\n")
    known = {"sailor": ("I sail.", "I have: two dogs."), "baker": ("I bake.", "I sing."), "1": ("I count.",)}
    assert read_personas(file) == known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no personas"),
        ("- a\n", "holds no personas"),
        ("sailor: []\n", "sailor: is \\[\\]"),
        ("sailor: 3\n", "not a list of sentences"),
        ("sailor: [3]\n", "3 is no sentence"),
        ("sailor: ['']\n", "is no sentence"),
        ('sailor: ["a\\x07"]\n', "control character"),
        ("sailor: [a\n", "not readable as YAML"),
        ("a: [x]\na: [y]\n", "there twice"),
    ],
)
def test_personas_that_cannot_be_read(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message) as caught:
        read_personas(write(tmp_path, text))
    assert "personas.yaml" in str(caught.value)


def test_a_file_of_personas_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        read_personas(tmp_path / "none.yaml")
