from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.load import ReadResult, read

GOOD = """\
1 your persona: i keep bees .
2 your persona: my sister is a pilot .
3 hello there\thi , the hives are buzzing today
4 what hives ?\ti keep bees behind the house
1 your persona: i am afraid of geese .
2 do you like parks ?\tonly those without geese
"""

Reader = Callable[..., ReadResult]


@pytest.fixture
def reading(tmp_path: Path) -> Reader:
    def run(text: str | bytes, persona: str = "self") -> ReadResult:
        path = tmp_path / "talks.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(path, format="convai2", persona=persona)

    return run


def found(result: ReadResult) -> list[tuple[int, str]]:
    return [(problem.line, problem.code) for problem in result.problems]


def edited(line: int, text: str) -> str:
    """GOOD with another text on `line`."""
    rows = GOOD.splitlines()
    rows[line - 1] = text
    return "\n".join(rows)


def test_a_good_file_is_read_as_written(reading: Reader) -> None:
    result = reading(GOOD)
    assert found(result) == []
    assert result.dialogues == (
        Dialogue(
            "1",
            ("i keep bees .", "my sister is a pilot ."),
            (
                Turn("hello there", "hi , the hives are buzzing today", (), 3),
                Turn("what hives ?", "i keep bees behind the house", (), 4),
            ),
        ),
        Dialogue("2", ("i am afraid of geese .",), (Turn("do you like parks ?", "only those without geese", (), 6),)),
    )


def test_windows_line_ends_blank_lines_and_a_byte_order_mark_change_nothing(reading: Reader) -> None:
    odd = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n  \r\n"
    assert reading(odd) == reading(GOOD)


def test_candidates_are_read_with_an_empty_reward(reading: Reader) -> None:
    result = reading("1 your persona: i row .\n2 hi\thello\t\tno|hello| maybe so ||\n")
    assert result.dialogues[0].turns[0].candidates == ("no", "hello", "maybe so")


def test_a_reward_is_passed_over(reading: Reader) -> None:
    assert reading("1 your persona: i row .\n2 hi\thello\t0.5\n").dialogues[0].turns == (Turn("hi", "hello", (), 2),)


def test_the_persona_may_speak_first(reading: Reader) -> None:
    result = reading("1 your persona: i row .\n2 __SILENCE__\thello\n3 hi\tfine day\n")
    assert found(result) == []
    assert [turn.user for turn in result.dialogues[0].turns] == ["", "hi"]


def test_newlines_are_unescaped(reading: Reader) -> None:
    result = reading("1 your persona: i row .\n2 one\\ntwo\tthree\n")
    assert result.dialogues[0].turns[0].user == "one\ntwo"


BOTH = """\
1 your persona: i keep bees .
2 partner's persona: i bake .
3 hi\thello
"""


@pytest.mark.parametrize(
    ("persona", "own", "partner"),
    [
        ("self", ("i keep bees .",), ()),
        ("other", (), ("i bake .",)),
        ("both", ("i keep bees .",), ("i bake .",)),
        ("none", (), ()),
    ],
)
def test_the_persona_option_chooses(
    reading: Reader, persona: str, own: tuple[str, ...], partner: tuple[str, ...]
) -> None:
    result = reading(BOTH, persona)
    assert found(result) == []
    assert (result.dialogues[0].persona, result.dialogues[0].partner_persona) == (own, partner)


def test_a_file_of_the_other_kind_read_for_self_gets_one_warning(reading: Reader) -> None:
    other = "1 partner's persona: i bake .\n2 hi\thello\n1 partner's persona: i ski .\n2 hi\tho\n"
    result = reading(other)
    assert found(result) == [(1, "no-persona")]
    assert "persona=self" in result.problems[0].message
    assert len(result.dialogues) == 2
    assert found(reading(other, "other")) == found(reading(other, "both")) == []


NONE = "1 hi\thello\n2 you ?\tfine\n1 hey\tho\n"


def test_a_file_without_personas_is_read_with_one_warning(reading: Reader) -> None:
    result = reading(NONE)
    assert found(result) == [(1, "no-persona")]
    assert [len(talk.turns) for talk in result.dialogues] == [2, 1]


def test_a_file_without_personas_read_with_none_is_clean(reading: Reader) -> None:
    assert found(reading(NONE, "none")) == []


def test_a_turn_before_any_persona_is_an_error_where_the_file_has_personas(reading: Reader) -> None:
    result = reading(GOOD + NONE)
    assert found(result) == [(7, "turn-before-persona"), (9, "turn-before-persona")]
    assert len(result.dialogues) == 2
    assert result.skipped == 2


def test_a_persona_that_follows_its_turn_is_one_fault(reading: Reader) -> None:
    result = reading(GOOD + "1 hi\thello\n2 your persona: i knit .\n3 so ?\tyes\n")
    assert found(result) == [(7, "turn-before-persona")]


@pytest.mark.parametrize(
    ("line", "text", "code"),
    [
        (3, "5 hello there\thi", "broken-numbering"),
        (4, "2 what hives ?\ti keep bees", "broken-numbering"),
        (4, "what hives ?\ti keep bees", "broken-numbering"),
        (1, "your persona: i keep bees .", "broken-numbering"),
        (1, "2 your persona: i keep bees .", "broken-numbering"),
        (3, "3 hello there hi", "missing-tab"),
        (3, "3 hello there   hi", "missing-tab"),
        (3, "3", "missing-tab"),
        (3, "3 hello\thi\t\thi|no\tmore", "extra-tab"),
        (2, "2 your persona: my sister\tis a pilot .", "extra-tab"),
        (3, "3 hello there\t", "empty-response"),
        (3, "3 hello there\t  \t\ta|b", "empty-response"),
        (3, "3 hello there\t__SILENCE__", "empty-response"),
        (4, "4 \ti keep bees", "empty-user"),
        (4, "4 your persona: i am late .", "late-persona"),
        (3, "3 hello\thi\t\tno|maybe", "gold-missing"),
        (3, "3 hello\thi \x07", "control-character"),
        (3, "3 hello\thi" + "i" * 1_000_000, "long-line"),
    ],
)
def test_each_error_is_reported_once_and_leaves_its_dialogue_out(
    reading: Reader, line: int, text: str, code: str
) -> None:
    result = reading(edited(line, text))
    assert found(result) == [(line, code)]
    assert [talk.id for talk in result.dialogues] == ["2"]
    assert result.skipped == 1


def test_a_line_broken_in_two_is_one_fault(reading: Reader) -> None:
    result = reading(edited(3, "3 hello there\thi , the hives\nare buzzing today"))
    assert found(result) == [(4, "broken-numbering")]
    assert "no number in front of 'are buzzing today'" in result.problems[0].message


def test_a_lost_line_is_one_fault(reading: Reader) -> None:
    rows = GOOD.splitlines()
    del rows[1]
    result = reading("\n".join(rows))
    assert found(result) == [(2, "broken-numbering")]
    assert "line number 3 where 2 was expected" in result.problems[0].message


def test_a_lost_first_line_is_one_fault_and_costs_only_its_own_dialogue(reading: Reader) -> None:
    rows = (GOOD + GOOD.replace("bees", "wasps")).splitlines()
    del rows[6]
    result = reading("\n".join(rows))
    assert found(result) == [(7, "broken-numbering"), (10, "duplicate-dialogue")]
    assert [talk.id for talk in result.dialogues] == ["1", "2", "4"]


def test_wrong_encoding_is_one_fault_even_in_a_persona(reading: Reader) -> None:
    result = reading(edited(1, "1 your persona: i keep bées .").encode("latin-1"))
    assert found(result) == [(1, "wrong-encoding")]
    assert [talk.id for talk in result.dialogues] == ["2"]


def test_a_dialogue_of_persona_lines_alone_has_no_turns(reading: Reader) -> None:
    assert found(reading("1 your persona: i sing .\n" + GOOD)) == [(1, "no-turns")]


@pytest.mark.parametrize(
    ("line", "text", "code"),
    [
        (2, "2 your persona:   ", "blank-persona"),
        (3, "3 hello\thi|hey", "several-labels"),
        (3, "3 hello\toh :|", "several-labels"),
        (3, "3 hello\thi\\nthere", "newline-in-response"),
    ],
)
def test_each_warning_is_reported_once_and_keeps_its_dialogue(reading: Reader, line: int, text: str, code: str) -> None:
    result = reading(edited(line, text))
    assert found(result) == [(line, code)]
    assert len(result.dialogues) == 2


def test_of_several_labels_the_first_is_the_response(reading: Reader) -> None:
    assert reading(edited(3, "3 hello\thi|hey")).dialogues[0].turns[0].response == "hi"


def test_a_blank_persona_sentence_is_dropped(reading: Reader) -> None:
    assert reading(edited(2, "2 your persona: ")).dialogues[0].persona == ("i keep bees .",)


def test_every_fault_of_one_dialogue_is_reported(reading: Reader) -> None:
    result = reading("1 your persona: i row .\n2 hello\n4 hi\t\n5 a\tb\t\tc|d\n")
    assert found(result) == [(2, "missing-tab"), (3, "broken-numbering"), (3, "empty-response"), (4, "gold-missing")]
