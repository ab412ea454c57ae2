from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptune.data import load
from sptune.data.dialogue import Dialogue
from sptune.data.load import FORMATS, load_dialogues, read, select
from sptune.errors import DataError, SptError, UsageError

PARLAI = "1 your persona: i keep bees .\n2 hi\thello\n"
MESSAGES = (
    '{"persona": ["i dive ."], "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}'
)
SHAREGPT = '{"persona": "I dive.", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}'


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Five dialogues."""
    return write(tmp_path / "five.txt", "".join(PARLAI.replace("hi", f"hi {n}") for n in range(1, 6)))


@pytest.mark.parametrize(
    ("text", "format"),
    [
        (PARLAI, "convai2"),
        ("nonsense\n" + PARLAI, "convai2"),
        ("\n\n" + PARLAI, "convai2"),
        ("1 hi\thello\n", "convai2"),
        (MESSAGES, "messages"),
        (f"[{MESSAGES}]", "messages"),
        ("\ufeff" + MESSAGES, "messages"),
        ("{broken\n" + MESSAGES, "messages"),
        ("garbage\n" + MESSAGES, "messages"),
        (SHAREGPT, "sharegpt"),
        (f" [\n{SHAREGPT}\n]", "sharegpt"),
        (json.dumps({"note": '"messages": no', **json.loads(SHAREGPT)}), "sharegpt"),
    ],
)
def test_the_format_is_detected_from_the_content(tmp_path: Path, text: str, format: str) -> None:
    result = read(write(tmp_path / "talks", text))
    assert result.format == format
    assert len(result.dialogues) == 1


def test_a_forced_format_is_used_whatever_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "talks", PARLAI)
    assert {problem.code for problem in read(path, format="messages").problems} == {"invalid-json"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b" \n\n \t\n", "is empty"),
        (b"\x89PNG\x00\x00", "binary (a NUL byte at offset 4)"),
        (PARLAI.encode("utf-16"), "UTF-16"),
        (b"just some prose\nof two lines", "the format cannot be told"),
        (b'{"text": "hi"}', 'without "messages" or "conversations"'),
    ],
)
def test_what_is_no_dialogue_file_is_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    path = write(tmp_path / "talks.txt", raw)
    with pytest.raises(DataError, match=r"talks\.txt") as caught:
        read(path)
    assert words in str(caught.value)


def test_white_space_longer_than_the_head_is_empty_too(tmp_path: Path) -> None:
    path = write(tmp_path / "talks.txt", "[" + "\n" * 70_000 + "]")
    with pytest.raises(DataError, match="no dialogue in it"):
        read(path, format="messages")


def test_a_missing_path_a_folder_and_an_unknown_format_are_refused(tmp_path: Path, five: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: no such file"):
        read(tmp_path / "gone.txt")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(DataError, match="format='csv' is not known; use one of auto, convai2"):
        read(five, format="csv")
    with pytest.raises(DataError, match="no such file"):
        read("x" * 5000)


def test_a_file_that_may_not_be_read_is_refused(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read(five)


def test_unknown_option_values_are_named(five: Path) -> None:
    with pytest.raises(UsageError, match="persona='me' is not known; use one of self, other, both, none"):
        read(five, persona="me")
    with pytest.raises(UsageError, match="on_error='ignore' is not known; use stop or skip"):
        load_dialogues(five, on_error="ignore")


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        (None, "12345"),
        ("1:5", "12345"),
        ("2:3", "23"),
        ("4:4", "4"),
        ("4:", "45"),
        (":2", "12"),
        (":", "12345"),
        (" 2:3 ", "23"),
    ],
)
def test_a_range_counts_from_one_and_includes_both_ends(five: Path, split: str | None, ids: str) -> None:
    assert "".join(talk.id for talk in load_dialogues(five, split=split)) == ids


@pytest.mark.parametrize("split", ["3", "a:b", "1-3", "1:2:3", "-1:3", "", "1.0:2"])
def test_what_is_no_range_is_refused(five: Path, split: str) -> None:
    with pytest.raises(UsageError, match="is not a range; write FIRST:LAST"):
        load_dialogues(five, split=split)


@pytest.mark.parametrize("split", ["0:3", "4:2", ":0"])
def test_an_empty_range_is_refused(five: Path, split: str) -> None:
    with pytest.raises(UsageError, match="is empty"):
        load_dialogues(five, split=split)


@pytest.mark.parametrize("split", ["1:6", "6:", "6:9", "99:1"])
def test_a_range_past_the_end_names_the_number_of_dialogues(five: Path, split: str) -> None:
    with pytest.raises(DataError, match=r"five\.txt has 5 dialogues"):
        load_dialogues(five, split=split)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
def test_ranges_that_meet_divide_the_dialogues(count: int, first: int, second: int) -> None:
    low, high = sorted((min(first, count), min(second, count)))
    talks = tuple(Dialogue(str(n), (), ()) for n in range(count))
    parts = [select(talks, f":{low}", "f")]
    parts += [select(talks, f"{low + 1}:{high}", "f")] if high > low else []
    parts += [select(talks, f"{high + 1}:", "f")] if high < count else []
    assert [talk for part in parts for talk in part] == list(talks)


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """One good dialogue and 25 with an error."""
    return write(tmp_path / "flawed.txt", PARLAI + "".join(f"1 your persona: i am {n} .\n2 hi\n" for n in range(25)))


def test_errors_stop_loading_with_the_first_twenty_and_the_count(flawed: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_dialogues(flawed)
    message = str(caught.value)
    assert "25 errors, in 25 dialogues" in message
    assert message.count("no tab in") == 20
    assert f"{flawed}:4: no tab in 'hi'" in message
    assert "... and 5 more" in message
    assert "on_error=skip" in message


def test_errors_can_be_skipped_and_the_log_says_what_was(flawed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        talks = load_dialogues(flawed, on_error="skip")
    assert [talk.id for talk in talks] == ["1"]
    assert "25 dialogues with errors left out" in caplog.text
    assert f"{flawed}:4: no tab in 'hi'" in caplog.text


def test_warnings_do_not_stop_loading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "talks.txt", PARLAI + PARLAI)
    assert len(load_dialogues(path)) == 2
    assert "1 warning" in caplog.text


def test_a_file_without_a_single_good_dialogue_is_refused_even_when_skipping(tmp_path: Path) -> None:
    path = write(tmp_path / "talks.txt", "1 your persona: i row .\n2 hi\n")
    with pytest.raises(DataError, match="no dialogue without errors is left"):
        load_dialogues(path, on_error="skip")


def test_progress_is_told_the_size_of_the_file(five: Path) -> None:
    calls: list[tuple[int, int]] = []
    read(five, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (five.stat().st_size, five.stat().st_size)


def test_the_bundled_dialogues_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample").mkdir()
    for part in ("train", "validation", "test"):
        write(tmp_path / "sample" / f"{part}.jsonl", MESSAGES.replace("yo", part))
    monkeypatch.setattr(load, "__file__", str(tmp_path / "load.py"))
    heard = {name: load_dialogues(name)[0].turns[0].response for name in ("sample", "sample:validation", "sample:test")}
    assert heard == {"sample": "train", "sample:validation": "validation", "sample:test": "test"}
    with pytest.raises(DataError, match="sample:dev: no such part of the bundled dialogues; use one of train"):
        read("sample:dev")


@given(st.binary(max_size=300), st.sampled_from(["auto", "convai2", "messages", "sharegpt"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes, format: str) -> None:
    survives(tmp_path_factory.getbasetemp() / "garbage", raw, format)


FRAGMENTS = [
    *(b"1 ", b"2 ", b"7 ", b"your persona:", b"partner's persona: i ski", b"\t", b"|", b"\\n", b"__SILENCE__", b"hi"),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"messages"', b'"conversations"', b'"role"', b'"from"', b'"user"', b'"'),
    *(b'{"role":"user","content":"a"}', b'{"from":"gpt","value":"b"}', b'"persona":', b'"id":1', b"null", b"\\ud83d"),
    *(b"\n", b"\r", b"\x00", b"\x85", b"\xff", b"\xef\xbb\xbf", "é\u2028".encode(), b" "),
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join), st.sampled_from(FORMATS[:-1]))
def test_fragments_of_dialogues_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, format: str
) -> None:
    survives(tmp_path_factory.getbasetemp() / "garbage", raw, format)


def survives(path: Path, raw: bytes, format: str) -> None:
    path.write_bytes(raw)
    try:
        result = read(path, format=format)
    except SptError:
        return
    assert result.dialogues or result.problems
    for problem in result.problems:
        assert 1 <= problem.line <= raw.count(b"\n") + 1
        str(problem).encode()
    for talk in result.dialogues:
        assert talk.turns
        assert all(turn.response and (turn.user or not place) for place, turn in enumerate(talk.turns))


def test_reading_imports_neither_torch_nor_transformers_nor_rich() -> None:
    code = "import sys, sptune.data.load, sptune.data.save; print({'torch', 'transformers', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
