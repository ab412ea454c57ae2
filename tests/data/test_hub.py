from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sptune.data.hub import CONVERTED, Place, place_of
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
    with pytest.raises(DataError, match="no columns that hold dialogues, only text"):
        read(tmp_path / "texts")


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data set cannot be loaded: ") as caught:
        read(f"hub:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_without_the_library_the_message_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'sptune\[hub\]'"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("hub:me/talks", Place("me/talks")),
        ("hub:talks", Place("talks")),
        ("hub:me/talks:test", Place("me/talks", split="test")),
        ("hub:me/talks/full:test", Place("me/talks", "full", None, "test")),
        ("hub:me/talks/a/b@v1.0", Place("me/talks", "a/b", "v1.0")),
        (f"hub:me/talks/full@{CONVERTED}:test", Place("me/talks", "full", CONVERTED, "test")),
        ("hub:./me/talks@home:test", Place("./me/talks@home", split="test")),
    ],
)
def test_a_name_is_taken_apart(name: str, place: Place) -> None:
    assert place_of(name) == place


def test_a_folder_is_a_folder_whatever_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "a@b:c"
    odd.mkdir()
    assert place_of(f"hub:{odd}") == Place(str(odd))
    assert place_of(f"hub:{odd}:test") == Place(str(odd), split="test")


@pytest.mark.parametrize(("part", "argument"), [("full", "name"), ("elsewhere", "data_dir")])
def test_a_part_is_a_configuration_where_there_is_one_of_that_name(
    part: str, argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def load(source: str, **options: Any) -> Any:
        asked.update(options, source=source)
        return datasets.Dataset.from_list([row("hi", "yo")])

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda source, revision: ["full"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(load_dialogues(f"hub:me/talks/{part}@v2")) == 1
    assert asked == {"source": "me/talks", "revision": "v2", argument: part}


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("Dataset scripts are no longer supported, but found talks.py", f"hub:OWNER/NAME@{CONVERTED}"),
        ("Config name is missing.", "hub:OWNER/NAME/CONFIGURATION"),
    ],
)
def test_what_the_library_refuses_comes_with_a_way_out(
    reason: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=reason) as caught:
        read("hub:me/talks")
    assert advice in str(caught.value)
