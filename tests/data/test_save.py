from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.load import read
from sptune.data.save import RENDERERS, save_dialogues
from sptune.errors import DataError, StorageError, UsageError

TALK = Dialogue("a", ("i sew .",), (Turn("hi", "hello", ("no", "hello")), Turn("and ?", "i sew all day")))

# Text as a reader gives it: something to see, nothing around it, no control characters.
texts = (
    st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
    | st.sampled_from(["a\nb", "a\\nb", "a|b", "a\tb", "__SILENCE__", "your persona: x", "1 hi", '{"messages": 1}'])
).filter(lambda text: text == text.strip() != "")


@st.composite
def turns(draw: st.DrawFn, silent: bool) -> Turn:
    response = draw(texts)
    candidates = draw(st.just(()) | st.lists(texts, max_size=3).map(lambda others: (*others, response)))
    return Turn("" if silent else draw(texts), response, tuple(candidates))


@st.composite
def dialogues(draw: st.DrawFn, persona: int) -> Dialogue:
    opening = draw(turns(silent=draw(st.booleans())))
    rest = draw(st.lists(turns(silent=False), max_size=3))
    sentences = st.lists(texts, min_size=persona, max_size=3).map(tuple)
    return Dialogue("", draw(sentences), (opening, *rest), draw(st.lists(texts, max_size=2).map(tuple)))


files = (
    st.integers(0, 1)
    .flatmap(lambda persona: st.lists(dialogues(persona), min_size=1, max_size=4))
    .map(lambda talks: [replace(talk, id=f"talk {number}") for number, talk in enumerate(talks)])
)


def unplaced(talks: list[Dialogue] | tuple[Dialogue, ...]) -> list[Dialogue]:
    """Without the lines they came from."""
    return [replace(talk, turns=tuple(replace(turn, line=None) for turn in talk.turns)) for talk in talks]


@given(files, st.sampled_from(["messages", "sharegpt"]))
def test_json_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, talks: list[Dialogue], format: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    save_dialogues(talks, path, format=format, force=True)
    result = read(path, persona="both")
    assert result.format == format
    assert unplaced(result.dialogues) == talks
    assert not result.errors


@pytest.mark.parametrize("format", ["messages", "sharegpt"])
def test_json_keeps_what_is_only_history(tmp_path: Path, format: str) -> None:
    talk = Dialogue("a", (), (Turn("hi", "hello", learn=False), Turn("and ?", "i sew")))
    save_dialogues([talk], tmp_path / "out.jsonl", format=format)
    assert unplaced(read(tmp_path / "out.jsonl").dialogues) == [talk]
    with pytest.raises(DataError, match=r"'a' has a response that is only history \(weight 0\).*write messages or"):
        save_dialogues([talk], tmp_path / "out.txt", format="convai2")


@given(files)
def test_parlai_text_gives_back_what_was_written_or_refuses(
    tmp_path_factory: pytest.TempPathFactory, talks: list[Dialogue]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.txt"
    try:
        save_dialogues(talks, path, format="convai2", force=True)
    except DataError:
        return
    result = read(path, format="convai2", persona="both")
    assert not result.errors
    assert unplaced(result.dialogues) == [replace(talk, id=str(n)) for n, talk in enumerate(talks, start=1)]


@given(files)
def test_parlai_text_survives_the_way_through_messages(
    tmp_path_factory: pytest.TempPathFactory, talks: list[Dialogue]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        save_dialogues(talks, folder / "way.txt", format="convai2", force=True)
    except DataError:
        return
    first = read(folder / "way.txt", format="convai2", persona="both").dialogues
    save_dialogues(first, folder / "way.jsonl", force=True)
    again = read(folder / "way.jsonl", persona="both").dialogues
    assert unplaced(again) == unplaced(first)
    save_dialogues(again, folder / "way2.txt", format="convai2", force=True)
    assert (folder / "way2.txt").read_bytes() == (folder / "way.txt").read_bytes()


@pytest.mark.parametrize("text", ["a\tb", "a|b", "a\\nb", "__SILENCE__", " a", "", "a\x07"])
def test_parlai_text_refuses_what_it_would_change(tmp_path: Path, text: str) -> None:
    talk = replace(TALK, turns=(Turn("hi", text),))
    with pytest.raises(DataError, match=r"dialogue 'a'.*write messages or sharegpt instead"):
        save_dialogues([talk], tmp_path / "out.txt", format="convai2")
    assert list(tmp_path.iterdir()) == []


def test_parlai_text_refuses_a_user_who_talks_like_a_persona_line(tmp_path: Path) -> None:
    talk = replace(TALK, turns=(Turn("your persona: what ?", "yes"),))
    with pytest.raises(DataError, match="reads like a persona line"):
        save_dialogues([talk], tmp_path / "out.txt", format="convai2")


def test_parlai_text_refuses_to_mix_dialogues_with_and_without_persona(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'b' has no persona and others have one"):
        save_dialogues([TALK, replace(TALK, id="b", persona=())], tmp_path / "out.txt", format="convai2")


def test_parlai_text_refuses_a_turn_without_response(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="turn without response"):
        save_dialogues([TALK.say("so ?")], tmp_path / "out.txt", format="convai2")


def test_text_is_written_readable(tmp_path: Path) -> None:
    save_dialogues([replace(TALK, persona=("née à Zürich",))], tmp_path / "out.jsonl")
    line = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert "née à Zürich" in line
    assert json.loads(line)["id"] == "a"


@pytest.mark.parametrize("format", RENDERERS)
def test_an_existing_file_is_kept_unless_forced(tmp_path: Path, format: str) -> None:
    path = tmp_path / "out"
    path.write_text("precious")
    with pytest.raises(UsageError, match="exists; use --force"):
        save_dialogues([TALK], path, format=format)
    assert path.read_text() == "precious"
    save_dialogues([TALK], path, format=format, force=True)
    assert "i sew ." in path.read_text()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "out"
    path.write_text("precious")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="out cannot be written: No space left on device"):
        save_dialogues([TALK], path, force=True)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        save_dialogues([TALK], tmp_path / "gone" / "out.jsonl")
    with pytest.raises(UsageError, match="is a folder"):
        save_dialogues([TALK], tmp_path, force=True)
    with pytest.raises(UsageError, match="format='csv' cannot be written; use one of messages"):
        save_dialogues([TALK], tmp_path / "out", format="csv")


def test_a_replaced_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    path, link = tmp_path / "out", tmp_path / "link"
    path.write_text("private")
    path.chmod(0o600)
    link.symlink_to(path)
    save_dialogues([TALK], link, force=True)
    assert link.is_symlink()
    assert "i sew ." in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
