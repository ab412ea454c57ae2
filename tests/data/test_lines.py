from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from sptune.data.lines import Line, bad_character, read_lines
from sptune.data.problems import Problem, Report


def lines_of(raw: bytes, limit: int | None = 1000) -> tuple[list[Line], tuple[Problem, ...]]:
    report = Report("f")
    return list(read_lines(io.BytesIO(raw), report, limit=limit)), report.problems()


def test_line_ends_and_a_byte_order_mark_are_no_part_of_the_text() -> None:
    lines, problems = lines_of(b"\xef\xbb\xbfone\r\ntwo\n\nfour")
    assert lines == [Line(1, "one"), Line(2, "two"), Line(3, ""), Line(4, "four")]
    assert problems == ()


def test_bytes_that_are_not_utf8_are_named_by_offset_in_the_file_and_line() -> None:
    lines, problems = lines_of(b"ok\ncaf\xe9 noir\nok\n")
    assert [line.faulty for line in lines] == [False, True, False]
    assert [(p.line, p.code) for p in problems] == [(2, "wrong-encoding")]
    assert "byte 0xe9 at offset 6 " in problems[0].message


def test_the_offset_counts_the_byte_order_mark() -> None:
    _, problems = lines_of(b"\xef\xbb\xbfa\xff\n")
    assert "byte 0xff at offset 4 " in problems[0].message


def test_control_characters_are_reported_once_a_line_and_tabs_are_not() -> None:
    lines, problems = lines_of(b"a\tb\nbell\x07 and \x1b\n")
    assert [line.faulty for line in lines] == [False, True]
    assert [(p.line, p.code) for p in problems] == [(2, "control-character")]
    assert "U+0007 at column 5" in problems[0].message


def test_an_over_long_line_is_reported_with_its_length_and_the_rest_is_read() -> None:
    lines, problems = lines_of(b"a" * 12345 + b"\nnext\n")
    assert [(p.line, p.code) for p in problems] == [(1, "long-line")]
    assert "12,346 bytes" in problems[0].message
    assert len(lines[0].text) <= 1000
    assert lines[1] == Line(2, "next")


def test_a_line_of_exactly_the_limit_is_not_too_long() -> None:
    assert lines_of(b"a" * 1000 + b"\n")[1] == lines_of(b"a" * 1000)[1] == ()
    assert [p.code for p in lines_of(b"a" * 1001)[1]] == ["long-line"]


def test_progress_ends_at_the_size_of_the_file() -> None:
    raw = b"line\n" * 1000
    calls: list[tuple[int, int]] = []
    list(read_lines(io.BytesIO(raw), Report("f"), progress=lambda *call: calls.append(call), size=len(raw)))
    assert calls[-1] == (5000, 5000)
    assert calls == sorted(calls)
    assert len(calls) > 2


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_give_as_many_lines_as_they_have(raw: bytes, limit: int) -> None:
    lines, _ = lines_of(raw, limit)
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) == raw.count(b"\n") + (raw != b"" and not raw.endswith(b"\n"))


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"])))
def test_text_without_controls_passes(text: str) -> None:
    assert bad_character(text) is None


def test_half_a_surrogate_pair_is_a_bad_character() -> None:
    assert bad_character("a\ud83d") == ("unpaired-surrogate", "unpaired surrogate U+D83D at column 2")
