from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sptune.data.load import load_dialogues, read
from sptune.errors import DataError

datasets = pytest.importorskip("datasets")


def row(user: str, answer: str, key: str = "messages") -> dict[str, Any]:
    role, text, names = (
        ("role", "content", ("user", "assistant")) if key == "messages" else ("from", "value", ("human", "gpt"))
    )
    said = [{role: names[0], text: user}, {role: names[1], text: answer}]
    return {"persona": ["i dive ."], key: said, "source": "made up"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set with two splits, as `save_to_disk` writes it."""
    parts = {"train": [row("hi", "yo"), row("hi", "")], "test": [row("hey", "ho")]}
    path = tmp_path / "saved"
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(path)
    return path


def test_a_saved_folder_is_read_and_problems_name_the_row(folder: Path) -> None:
    result = read(folder)
    assert result.format == "hub"
    assert [turn.response for talk in result.dialogues for turn in talk.turns] == ["yo"]
    assert [(problem.file, problem.line, problem.code) for problem in result.problems] == [
        (str(folder), 2, "empty-response")
    ]


def test_a_split_is_chosen_by_name(folder: Path) -> None:
    talks = load_dialogues(f"hub:{folder}:test")
    assert [turn.response for talk in talks for turn in talk.turns] == ["ho"]
    assert load_dialogues(f"{folder}:test", format="hub") == talks


def test_an_unknown_split_is_refused_with_those_there_are(folder: Path) -> None:
    with pytest.raises(DataError, match="no split 'dev'; add one of train, test"):
        read(f"hub:{folder}:dev")


def test_a_data_set_without_splits_takes_none(tmp_path: Path) -> None:
    path = tmp_path / "one"
    datasets.Dataset.from_list([row("hi", "yo", "conversations")]).save_to_disk(path)
    assert len(load_dialogues(path)) == 1
    with pytest.raises(DataError, match="has no splits; leave out ':train'"):
        read(f"hub:{path}:train")


def test_a_folder_of_data_files_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "plain"
    folder.mkdir()
    datasets.Dataset.from_list([row("hi", "yo")]).to_json(folder / "train.jsonl")
    assert [talk.persona for talk in load_dialogues(f"hub:{folder}")] == [("i dive .",)]


def test_columns_without_dialogues_are_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"text": "hi"}]).save_to_disk(tmp_path / "texts")
    with pytest.raises(DataError, match="no column 'messages' or 'conversations', only text"):
        read(tmp_path / "texts")


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data set cannot be loaded: ") as caught:
        read(f"hub:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_without_the_library_the_message_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'sptune\[hub\]'"):
        read(folder)
