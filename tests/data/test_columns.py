"""Dialogues in the columns of well-known data sets, as files and as tables; all of them invented."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sptune.config import bundled_recipes, load_recipe
from sptune.data.columns import joined_utterances
from sptune.data.dialogue import Dialogue
from sptune.data.json_records import Record
from sptune.data.load import ReadResult, read
from sptune.errors import DataError
from sptune.run_data import load_data

Writer = Callable[..., Path]


def utterance(*said: str, **more: Any) -> dict[str, Any]:
    """What was said, the response last, and one distractor."""
    return {"history": list(said[:-1]), "candidates": ["no idea .", said[-1]], **more}


TALK = ("hi", "hello , i dive .", "deep ?", "very .")
PERSONACHAT = {"personality": ["i dive ."], "utterances": [utterance(*TALK[:2]), utterance(*TALK)]}
UTTERANCES = [
    {"personality": ["i dive ."], "conv_id": 7, "utterance_idx": n, **utterance(*TALK[: 2 * n + 2])} for n in range(2)
]
XPERSONA = {"persona": ["je plonge ."], "dialogue": [["salut", "bonjour , je plonge ."], ["profond ?", "très ."]]}
MSC = {
    "dataset": "MSC",
    "dialoug_id": 3,
    "session_id": 1,
    "persona1": ["I ski."],
    "persona2": ["I dive."],
    "dialogue": ["Hi!", "Hello, I dive.", "Deep?", "Very."],
    "speaker": ["Speaker 1", "Speaker 2"] * 2,
}
PARLAI_MSC = {
    "personas": [["I ski."], ["I dive."]],
    "dialog": [{"id": f"Speaker {n % 2 + 1}", "text": text} for n, text in enumerate(MSC["dialogue"])],
    "metadata": {"initial_data_id": "valid_3", "session_id": 2},
    "previous_dialogs": [{"dialog": [{"text": "Not this."}]}],
}
SYNTHETIC = {
    "user 1 personas": "I ski.",
    "user 2 personas": "I dive.\nI have a boat.",
    "Best Generated Conversation": "User 1: Hi!\nUser 2: Hello, I dive.\nUser 1: Deep?\nHow deep?\n[user 2's name]: Very.",
}


def without_id(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "conv_id"}


@pytest.fixture
def written(tmp_path: Path) -> Writer:
    def write(*records: object, array: bool = False) -> Path:
        path = tmp_path / "talks.json"
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        path.write_text(f"[{','.join(lines)}]" if array else "\n".join(lines), encoding="utf-8")
        return path

    return write


def said(talk: Dialogue) -> list[str | None]:
    return [text for turn in talk.turns for text in (turn.user, turn.response)]


def found(result: ReadResult) -> list[tuple[int, str]]:
    return [(problem.line, problem.code) for problem in result.problems]


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("records", "format", "talk", "words"),
    [
        ([PERSONACHAT], "personachat", Dialogue("1", ("i dive .",), ()), TALK),
        (UTTERANCES, "personachat", Dialogue("7", ("i dive .",), ()), TALK),
        ([without_id(row) for row in UTTERANCES], "personachat", Dialogue("1", ("i dive .",), ()), TALK),
        ([XPERSONA], "xpersona", Dialogue("1", ("je plonge .",), ()), ("salut", "bonjour , je plonge .", "profond ?", "très .")),
        ([MSC], "msc", Dialogue("3-1", ("I dive.",), (), ("I ski.",)), tuple(MSC["dialogue"])),
        ([PARLAI_MSC], "msc", Dialogue("valid_3-2", ("I dive.",), (), ("I ski.",)), tuple(MSC["dialogue"])),
        (
            [SYNTHETIC],
            "synthetic",
            Dialogue("1", ("I dive.", "I have a boat."), (), ("I ski.",)),
            ("Hi!", "Hello, I dive.", "Deep? How deep?", "Very."),
        ),
    ],
)  # fmt: skip
def test_a_file_in_a_data_sets_columns_is_detected_and_read(
    written: Writer, array: bool, records: list[Any], format: str, talk: Dialogue, words: tuple[str, ...]
) -> None:
    result = read(written(*records, array=array), persona="both")
    assert (result.format, result.problems) == (format, ())
    [found] = result.dialogues
    assert replace(found, turns=()) == talk
    assert tuple(said(found)) == words
    assert read(written(*records, array=array), format=format, persona="both") == result


def test_the_candidates_of_every_turn_are_kept_and_the_last_is_the_response(written: Writer) -> None:
    [talk] = read(written(PERSONACHAT)).dialogues
    assert [turn.candidates for turn in talk.turns] == [("no idea .", "hello , i dive ."), ("no idea .", "very .")]


def test_a_silent_user_lets_the_persona_speak_first(written: Writer) -> None:
    silent = ("__ SILENCE __", "hi !", "oh ?", "yes .")
    talk = {"personality": ["i dive ."], "utterances": [utterance(*silent[:2]), utterance(*silent)]}
    result = read(written(talk))
    assert (found(result), said(result.dialogues[0])) == ([], ["", "hi !", "oh ?", "yes ."])


def test_a_persona_that_speaks_first_needs_no_silence(written: Writer) -> None:
    talk = {"personality": ["i dive ."], "utterances": [utterance("hi !", "oh ?", "yes .")]}
    assert said(read(written(talk)).dialogues[0]) == ["", "hi !", "oh ?", "yes ."]


def test_rows_are_joined_by_conversation_or_by_history_and_name_their_first_line() -> None:
    rows = [*UTTERANCES, {**UTTERANCES[0], "conv_id": 8}]
    for talk in (rows, [without_id(row) for row in rows]):
        joined = list(joined_utterances(Record(line, row) for line, row in enumerate(talk, start=1)))
        assert [(one.line, len(one.value["utterances"])) for one in joined] == [(1, 2), (3, 1)]


def test_a_faulty_row_ends_a_dialogue_and_is_passed_on() -> None:
    records = [Record(1, UTTERANCES[0]), Record(2, faulty=True), Record(3, UTTERANCES[1])]
    assert [(one.line, one.faulty) for one in joined_utterances(records)] == [(1, False), (2, True), (3, False)]


@pytest.mark.parametrize(
    ("good", "bad", "code", "words"),
    [
        (PERSONACHAT, {"personality": [], "utterances": 3}, "wrong-type", "utterances is a number, not a list"),
        (PERSONACHAT, {"personality": [], "utterances": ["hi"]}, "wrong-type", "utterances[0] is a string"),
        (PERSONACHAT, {"personality": [], "utterances": [{"history": []}]}, "missing-key", "utterances[0].candidates"),
        (PERSONACHAT, {"personality": [], "utterances": [{"history": [], "candidates": []}]}, "no-turns", "is empty"),
        (PERSONACHAT, {"personality": [], "utterances": []}, "no-turns", "no answer"),
        (PERSONACHAT, {"personality": [1], "utterances": [utterance("a", "b")]}, "wrong-type", "persona[0] is a number"),
        (PERSONACHAT, [1], "wrong-type", "an array where an object was expected"),
        (XPERSONA, {"persona": [], "dialogue": [["a", "b", "c"]]}, "wrong-type", "dialogue[0] is not a pair"),
        (XPERSONA, {"persona": [], "dialogue": [["a", ""]]}, "empty-response", "says nothing"),
        (MSC, {**MSC, "speaker": ["Speaker 1"]}, "wrong-type", "4 texts in dialogue, but 1 in speaker"),
        (MSC, {**MSC, "speaker": ["Speaker 1", "Speaker 2", "Speaker 3", "Speaker 2"]}, "unknown-role", "'Speaker 3'"),
        (MSC, {**MSC, "speaker": [["Speaker 1"], *MSC["speaker"][1:]]}, "unknown-role", "role is an array, not one of"),
        (PARLAI_MSC, {**PARLAI_MSC, "dialog": [{"id": {"n": 1}, "text": "Hi!"}]}, "unknown-role", "role is an object"),
        (PARLAI_MSC, {**PARLAI_MSC, "personas": [[]]}, "wrong-type", "1 personas"),
        (SYNTHETIC, {**SYNTHETIC, "Best Generated Conversation": "Well, hi"}, "unknown-role", "begins with neither"),
        (SYNTHETIC, {**SYNTHETIC, "Best Generated Conversation": None}, "wrong-type", "is null"),
    ],
)  # fmt: skip
def test_a_row_of_another_shape_is_reported_with_its_line_and_leaves_the_others(
    written: Writer, good: dict[str, Any], bad: Any, code: str, words: str
) -> None:
    result = read(written(good, bad))
    assert len(result.dialogues) == 1
    assert result.skipped == 1
    [problem] = [one for one in result.problems if one.severity == "error"]
    assert (problem.line, problem.code) == (2, code)
    assert words in problem.message


@pytest.mark.parametrize("key", ["history", "candidates"])
@pytest.mark.parametrize("value", [5, {"0": "hi"}, "hi"])
def test_utterances_without_lists_are_reported_with_their_line_and_leave_the_others(
    written: Writer, key: str, value: Any
) -> None:
    first, second = map(without_id, UTTERANCES)
    result = read(written({**first, key: value}, second), format="personachat")
    assert (len(result.dialogues), result.skipped) == (1, 1)
    assert found(result) == [(1, "wrong-type")]
    assert f"{key} is a" in result.problems[0].message


def test_json_in_no_known_columns_is_refused(written: Writer) -> None:
    with pytest.raises(DataError, match=r"not in the columns of a known data set"):
        read(written({"personality": ["i dive ."], "lines": ["hi"]}))


# The recipes, on tables in the format of the data sets that they name.

datasets = pytest.importorskip("datasets")


def numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The same dialogue with other words."""
    return json.loads(json.dumps(row).replace("ive", f"ive {number} times"))


def rows_like(row: dict[str, Any], first: int) -> list[dict[str, Any]]:
    return [numbered(row, number) for number in range(first, first + 3)]


def utterance_rows(first: int) -> list[dict[str, Any]]:
    return [{**numbered(row, number), "conv_id": number} for number in range(first, first + 3) for row in UTTERANCES]


TABLES: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "data/personachat": lambda first: rows_like(PERSONACHAT, first),
    "data/personachat-truecased": utterance_rows,
    "data/multi-session-chat": lambda first: rows_like(MSC, first),
    "data/synthetic-persona-chat": lambda first: rows_like(SYNTHETIC, first),
}


def test_every_data_recipe_is_tried_on_its_format() -> None:
    assert {name for name in bundled_recipes() if name.startswith("data/")} == TABLES.keys() | {"data/xpersona"}


@pytest.mark.parametrize("name", TABLES)
def test_a_recipe_of_a_hub_data_set_reads_a_table_of_that_format(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "table"
    folder.mkdir()
    for split, first in (("train", 1), ("validation", 4), ("test", 7)):
        datasets.Dataset.from_list(TABLES[name](first)).to_parquet(folder / f"{split}.parquet")
    recipe = load_recipe(
        name,
        [
            f"data.path=hub:{folder}:train",
            f"data.validation_path=hub:{folder}:validation",
            f"evaluation.path=hub:{folder}:test",
            *(f"{key}=1:3" for key in ("data.train", "data.validation", "evaluation.split")),
        ],
    )
    data = load_data(recipe)
    for talks, first in ((data.train, 1), (data.validation, 4), (data.test, 7)):
        assert len(talks) == 3
        assert all(len(talk.turns) == 2 and f"ive {first + n}" in talk.persona[0] for n, talk in enumerate(talks))


def test_the_recipe_of_xpersona_reads_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("data/xpersona", [f"{key}=1:3" for key in ("data.train", "data.validation", "evaluation.split")])  # fmt: skip
    for number, path in enumerate((recipe.data.path, recipe.data.validation_path, recipe.evaluation.path)):
        talks = [numbered({**XPERSONA, "persona": [f"dive {n}"]}, n) for n in range(3 * number, 3 * number + 3)]
        Path(path or "").write_text(json.dumps(talks, ensure_ascii=False), encoding="utf-8")
    data = load_data(recipe)
    assert [len(talks) for talks in (data.train, data.validation, data.test)] == [3, 3, 3]


def test_a_column_of_objects_may_come_as_an_object_of_columns(tmp_path: Path) -> None:
    columns = {key: [one[key] for one in PERSONACHAT["utterances"]] for key in ("history", "candidates")}
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps({**PERSONACHAT, "utterances": columns}))
    assert said(read(path).dialogues[0]) == list(TALK)
