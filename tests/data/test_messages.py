from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.load import ReadResult, read

Reader = Callable[..., ReadResult]


def said(*texts: str, first: str = "user") -> list[dict[str, Any]]:
    """Alternating messages."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


OTHER = {"id": "other", "persona": ["i am a baker ."], "messages": said("bread ?", "always")}


@pytest.fixture
def reading(tmp_path: Path) -> Reader:
    def run(*records: object, format: str = "auto", persona: str = "self") -> ReadResult:
        path = tmp_path / "talks.jsonl"
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path.write_text("\n".join(lines), encoding="utf-8")
        return read(path, format=format, persona=persona)

    return run


def found(result: ReadResult) -> list[tuple[int, str]]:
    return [(problem.line, problem.code) for problem in result.problems]


def talk(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "persona": ["i dive ."], "messages": said("hi", "hello", "deep ?", "very"), **changes}


def test_a_record_is_read_as_written(reading: Reader) -> None:
    result = reading(talk(messages=[*said("hi"), {"role": "assistant", "content": " yo ", "candidates": ["no", "yo"]}]))
    assert found(result) == []
    assert result.format == "messages"
    assert result.dialogues == (Dialogue("a", ("i dive .",), (Turn("hi", "yo", ("no", "yo"), 1),)),)


def test_blank_lines_are_passed_over_and_lines_counted(reading: Reader) -> None:
    result = reading(talk(), "", OTHER)
    assert [turn.line for dialogue in result.dialogues for turn in dialogue.turns] == [1, 1, 3]
    assert found(result) == []


def test_nulls_are_absent_keys(reading: Reader) -> None:
    record = talk(id=None, partner_persona=None, messages=[{**m, "candidates": None} for m in said("hi", "yo")])
    result = reading(record)
    assert found(result) == []
    assert result.dialogues[0] == Dialogue("1", ("i dive .",), (Turn("hi", "yo", (), 1),))


def test_the_partner_persona_is_kept_when_asked_for(reading: Reader) -> None:
    record = talk(partner_persona=["i fly ."])
    assert reading(record).dialogues[0].partner_persona == ()
    assert reading(record, persona="both").dialogues[0].partner_persona == ("i fly .",)
    assert reading(record, persona="other").dialogues[0].persona == ()


def test_a_persona_given_as_one_text_is_split_into_sentences(reading: Reader) -> None:
    assert reading(talk(persona="I dive. I love fish!\nMy dog swims")).dialogues[0].persona == (
        "I dive.",
        "I love fish!",
        "My dog swims",
    )


def test_a_system_message_is_the_persona(reading: Reader) -> None:
    record = talk(persona=None, messages=[{"role": "system", "content": "I dive.\nI ski."}, *said("hi", "hello")])
    result = reading(record)
    assert found(result) == []
    assert result.dialogues[0].persona == ("I dive.", "I ski.")
    assert [turn.user for turn in result.dialogues[0].turns] == ["hi"]


def test_a_system_message_beside_a_persona_is_a_warning_unless_it_says_the_same(reading: Reader) -> None:
    system = {"role": "system", "content": "I dive. I ski."}
    result = reading(talk(messages=[system, *said("hi", "hello")]))
    assert found(result) == [(1, "system-ignored")]
    assert result.dialogues[0].persona == ("i dive .",)
    assert found(reading(talk(persona=["I dive.", "I ski."], messages=[system, *said("hi", "hello")]))) == []


def test_the_assistant_may_speak_first(reading: Reader) -> None:
    result = reading(talk(messages=said("hello", "hi", "deep ?", first="assistant")))
    assert found(result) == []
    assert [(turn.user, turn.response) for turn in result.dialogues[0].turns] == [("", "hello"), ("hi", "deep ?")]


def test_messages_of_one_speaker_are_joined_with_a_warning(reading: Reader) -> None:
    messages = said("hi", "hello") + said("deep ?", "very")
    messages.insert(1, {"role": "user", "content": "there"})
    messages.insert(3, {"role": "assistant", "content": "friend", "candidates": ["friend", "foe"]})
    result = reading(talk(messages=messages))
    assert found(result) == [(1, "not-alternating"), (1, "not-alternating")]
    assert result.dialogues[0].turns[0] == Turn("hi there", "hello friend", (), 1)
    assert len(result.dialogues[0].turns) == 2


def test_a_weight_of_0_makes_a_response_history(reading: Reader) -> None:
    messages = [
        {"role": "user", "content": "a", "weight": 0},
        {"role": "assistant", "content": "A", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "B", "weight": 1},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "C", "weight": None},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "D"},
        {"role": "assistant", "content": "DD", "weight": 0},
    ]
    result = reading({"messages": messages})
    assert [turn.learn for turn in result.dialogues[0].turns] == [False, True, True, False]
    assert not result.errors


@pytest.mark.parametrize(
    ("weight", "shown"), [(2, "2"), (0.5, "0.5"), (-1, "-1"), ("1", "a string"), ([0], "an array")]
)
def test_any_other_weight_is_refused(reading: Reader, weight: object, shown: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "A", "weight": weight}]
    [problem] = reading({"messages": messages}).problems
    assert (problem.code, problem.message) == ("wrong-weight", f"messages[1].weight is {shown}, not 0 or 1")


def test_a_last_user_message_is_dropped_with_a_warning(reading: Reader) -> None:
    result = reading(talk(messages=said("hi", "hello", "deep ?")))
    assert found(result) == [(1, "trailing-user")]
    assert len(result.dialogues[0].turns) == 1


def with_message(**message: Any) -> dict[str, Any]:
    return talk(messages=[*said("hi"), {"role": "assistant", "content": "hello", **message}])


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        ('{"id": "a", "messages": [{"role"', "invalid-json", "column"),
        ("[" * 100_000, "invalid-json", "RecursionError"),
        ('{"messages": ' + "1" * 5000 + "}", "invalid-json", "ValueError"),
        ("nonsense", "invalid-json", "nonsense"),
        ("3", "wrong-type", "a number"),
        ({"id": "a", "persona": []}, "missing-key", "'messages'"),
        (talk(messages="hi"), "wrong-type", "messages is a string"),
        (talk(messages=["hi"]), "wrong-type", "messages[0] is a string"),
        (talk(messages=[{"role": "user"}]), "missing-key", "messages[0] has no 'content'"),
        (talk(messages=[{"role": "user", "content": None}]), "wrong-type", "messages[0].content is null, not a string"),
        (talk(messages=[{"role": None, "content": "hi"}]), "unknown-role", "messages[0].role is null, not one of"),
        (talk(messages=[{}]), "missing-key", "no 'role' and no 'content'"),
        (talk(messages=[]), "no-turns", "messages"),
        (talk(messages=said("hi")), "no-turns", "messages"),
        (with_message(role="tool"), "unknown-role", "messages[1].role is 'tool', not one of system, user, assistant"),
        (with_message(role=7), "unknown-role", "messages[1].role is a number"),
        (with_message(content=7), "wrong-type", "messages[1].content is a number"),
        (with_message(content=[{"type": "text"}]), "wrong-type", "messages[1].content is an array"),
        (with_message(content="  "), "empty-response", "messages[1]"),
        (with_message(candidates=["no", "maybe"]), "gold-missing", "2 candidates without the response 'hello'"),
        (with_message(candidates="hello"), "wrong-type", "messages[1].candidates is a string"),
        (with_message(candidates=["hello", 3]), "wrong-type", "messages[1].candidates[1] is a number"),
        (talk(messages=said("hi", "hello", " ", "very")), "empty-user", "messages[2]"),
        (talk(messages=[*said("hi", "yo"), {"role": "system", "content": "x"}]), "late-persona", "messages[2]"),
        (talk(persona=7), "wrong-type", "persona is a number"),
        (talk(persona=["i dive .", 7]), "wrong-type", "persona[1] is a number"),
        (talk(partner_persona={}), "wrong-type", "partner_persona is an object"),
        (talk(id=["x"]), "wrong-type", "id is an array"),
        (with_message(content="bell\x07"), "control-character", "messages[1].content has control character U+0007"),
        (talk(persona=["nul\x00"]), "control-character", "persona[0] has control character U+0000"),
        (
            with_message(content="half \ud83d"),
            "unpaired-surrogate",
            "messages[1].content has unpaired surrogate U+D83D",
        ),
        ('{"messages": "' + "x" * 1_000_000 + '"}', "long-line", "more than 1,000,000"),
    ],
)
def test_each_error_is_reported_once_and_leaves_its_dialogue_out(
    reading: Reader, record: object, code: str, words: str
) -> None:
    result = reading(OTHER, record, talk(id="last"), format="messages")
    assert found(result) == [(2, code)]
    assert words in str(result.problems[0])
    assert [dialogue.id for dialogue in result.dialogues] == ["other", "last"]
    assert result.skipped == 1


def test_a_truncated_last_line_is_reported_and_the_rest_is_read(reading: Reader) -> None:
    whole = json.dumps(talk())
    for cut in (1, 10, len(whole) - 1):
        result = reading(OTHER, whole[:cut])
        assert found(result) == [(2, "invalid-json")]
        assert [dialogue.id for dialogue in result.dialogues] == ["other"]


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (talk(persona=["i dive .", "  "]), "blank-persona"),
        (with_message(content="hello\nagain"), "newline-in-response"),
        (talk(persona=[]), "no-persona"),
    ],
)
def test_each_warning_is_reported_once_and_keeps_its_dialogue(reading: Reader, record: object, code: str) -> None:
    result = reading(OTHER, record)
    assert found(result) == [(2, code)]
    assert len(result.dialogues) == 2


def test_a_file_without_personas_gets_one_warning_unless_none_is_asked_for(reading: Reader) -> None:
    records = (talk(persona=None), talk(id="b", persona=None, messages=said("yo", "ho")))
    assert found(reading(*records)) == [(1, "no-persona")]
    assert found(reading(*records, persona="none")) == []


def test_every_fault_of_one_record_is_reported(reading: Reader) -> None:
    messages = [{"role": "bot", "content": "hi"}, {"role": "user", "content": 3}, "what"]
    result = reading(talk(messages=messages, persona=[1]), format="messages")
    assert [code for _, code in found(result)] == ["wrong-type", "unknown-role", "wrong-type", "wrong-type"]


SHARED = {
    "id": 7,
    "conversations": [
        {"from": "system", "value": "I dive."},
        {"from": "human", "value": "hi"},
        {"from": "gpt", "value": "hello"},
        {"from": "user", "value": "deep ?"},
        {"from": "assistant", "value": "very"},
    ],
}


def test_sharegpt_is_read_with_either_names_for_the_speakers(reading: Reader) -> None:
    result = reading(SHARED)
    assert found(result) == []
    assert result.format == "sharegpt"
    assert result.dialogues == (
        Dialogue("7", ("I dive.",), (Turn("hi", "hello", (), 1), Turn("deep ?", "very", (), 1))),
    )


def test_sharegpt_names_its_own_keys_in_problems(reading: Reader) -> None:
    result = reading({"conversations": [{"from": "bing", "value": "hi"}, {"from": "gpt"}]})
    assert (
        "conversations[0].from is 'bing', not one of system, human, user, gpt, assistant" in result.problems[0].message
    )
    assert "conversations[1] has no 'value'" in result.problems[1].message


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_like_lines(reading: Reader, indent: int | None) -> None:
    second = {**SHARED, "id": 8, "persona": "I sing."}
    result = reading(json.dumps([SHARED, second], indent=indent))
    assert [dialogue.id for dialogue in result.dialogues] == ["7", "8"]
    assert result.dialogues[1].persona == ("I sing.",)


def test_a_problem_in_an_array_names_the_line_where_its_object_begins(reading: Reader) -> None:
    text = json.dumps([SHARED, {**SHARED, "id": {}}], indent=1)
    start = text.splitlines().index(" {", 3) + 1
    assert start > 10
    assert found(reading(text)) == [(start, "wrong-type")]


def test_objects_over_several_lines_are_read(reading: Reader) -> None:
    result = reading(json.dumps(talk(), indent=2), json.dumps(OTHER, indent=2))
    assert [dialogue.id for dialogue in result.dialogues] == ["a", "other"]
    assert found(result) == []


def test_an_array_cut_off_inside_an_object_keeps_what_came_before(reading: Reader) -> None:
    text = json.dumps([OTHER, talk()], indent=1)
    result = reading(text[: text.index("deep")])
    assert [code for _, code in found(result)] == ["invalid-json"]
    assert result.problems[0].line == text[: text.index("deep")].count("\n") + 1
    assert "nothing after this is read" in result.problems[0].message
    assert [dialogue.id for dialogue in result.dialogues] == ["other"]


@pytest.mark.parametrize(("end", "words"), [("", "cut off"), ("] and more", "after the end")])
def test_an_array_has_to_end(reading: Reader, end: str, words: str) -> None:
    result = reading("[\n" + json.dumps(OTHER) + "\n" + end)
    assert found(result) == [(3 if end else 2, "invalid-json")]
    assert words in result.problems[0].message
    assert len(result.dialogues) == 1


def test_bad_bytes_in_an_array_leave_out_the_object_they_are_in(tmp_path: Path) -> None:
    path = tmp_path / "talks.json"
    text = json.dumps([talk(persona=["café"]), OTHER], indent=1, ensure_ascii=False)
    path.write_bytes(text.encode("latin-1"))
    result = read(path)
    assert [code for _, code in found(result)] == ["wrong-encoding"]
    assert [dialogue.id for dialogue in result.dialogues] == ["other"]


def test_an_array_on_one_line_may_be_long(reading: Reader) -> None:
    records = [talk(id=str(number), messages=said(f"hi {number}", "x" * 1000)) for number in range(1200)]
    result = reading(json.dumps(records))
    assert len(result.dialogues) == 1200
    assert found(result) == []
