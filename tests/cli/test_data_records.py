from __future__ import annotations

import json
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recorded import recorded
from small_run import run_cli, small_trainer
from sptune.data.load import load_dialogues
from sptune.model.load import LoadedBase
from sptune.server.records.store import Records


def at(day: int) -> float:
    """Noon of a day in November 2026, UTC, in seconds since 1970."""
    return datetime(2026, 11, day, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Two talks: of one, two replies were liked and the last not rated; of the other, the second was liked and the first was not."""
    path = tmp_path / "chats.db"
    records = Records.open(path)
    records.conversation(recorded("c1", "Hi!", reply="Hello.", time=at(1)))
    records.conversation(recorded("c2", "Hi!", "Hello.", "And?", reply="Bees.", time=at(2)))
    records.conversation(recorded("c3", "Hi!", "Hello.", "And?", "Bees.", "So?", reply="Yes.", time=at(3)))
    records.conversation(recorded("d1", "Ahoy!", reply="Arr.", time=at(4), user="bob", model="pirate"))
    records.conversation(recorded("d2", "Ahoy!", "Arr.", "Rum?", reply="Aye.", time=at(5), user="bob", model="pirate"))
    records.conversation(recorded("e1", "Tell me!", reply="Once upon", time=at(6), finish="length"))
    for name in ("c1", "c2", "d2", "e1"):
        records.feedback(name, rating=1)
    records.feedback("d1", rating=-1)
    records.close()
    return path


def said(path: Path) -> list[list[str]]:
    """The texts of each dialogue in a file; in brackets what is only history."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        [
            message["content"] if message.get("weight", 1) else f"({message['content']})"
            for message in record["messages"]
        ]
        for record in records
    ]


def test_liked_replies_are_written_and_the_rest_is_reported(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "liked.jsonl"
    assert run_cli(monkeypatch, "data", "from-records", chats, "--output", output) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{chats}: 6 replies, 4 liked, 1 disliked, 1 not rated",
        "left out: 1 liked, cut off before its end, and training would learn to stop there (--include-cut takes them)",
        f"{output}: 2 dialogues with 3 liked replies and 1 others as history written",
    ]
    assert json.loads(output.read_text().splitlines()[0])["persona"] == ["I keep bees.", "I fear geese."]
    assert said(output) == [["Hi!", "Hello.", "And?", "Bees."], ["Ahoy!", "(Arr.)", "Rum?", "Aye."]]
    assert "ann" not in output.read_text()


def test_the_file_is_clean_and_can_be_trained_on(
    chats: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_base: LoadedBase,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "liked.jsonl"
    run_cli(monkeypatch, "data", "from-records", chats, "--out", output, "--include-cut")
    assert run_cli(monkeypatch, "data", "check", output) == 0
    assert capsys.readouterr().out.endswith("no problems\n")
    trainer = small_trainer(tiny_base, tmp_path / "run", train=load_dialogues(output), epochs=1)
    trainer.train()
    assert (tmp_path / "run" / "adapter").is_dir()


@pytest.mark.parametrize(
    ("options", "replies", "talks"),
    [
        (["--adapter", "bees"], 4, [["Hi!", "Hello.", "And?", "Bees."]]),
        (["--adapter", "pirate"], 2, [["Ahoy!", "(Arr.)", "Rum?", "Aye."]]),
        (["--since", "2026-11-02"], 5, [["Hi!", "(Hello.)", "And?", "Bees."], ["Ahoy!", "(Arr.)", "Rum?", "Aye."]]),
        (["--adapter", "bees", "--include-cut", "--since", "2026-11-04"], 1, [["Tell me!", "Once upon"]]),
        (["--since", "2026-11-06T11:59:00", "--include-cut"], 1, [["Tell me!", "Once upon"]]),
    ],
)
def test_filters_choose_replies(
    chats: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    replies: int,
    talks: list[list[str]],
) -> None:
    output = tmp_path / "liked.jsonl"
    assert run_cli(monkeypatch, "data", "from-records", chats, "--output", output, *options) == 0
    assert f": {replies} replies, " in capsys.readouterr().out
    assert said(output) == talks


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Lima"])
def test_dates_are_utc_wherever_one_is(
    chats: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for since, replies in (("2026-11-06T12:00:00", 1), ("2026-11-06T12:00:01", 0)):
            assert run_cli(monkeypatch, "data", "from-records", chats, "--dry-run", "--since", since) == 0
            assert f": {replies} replies, " in capsys.readouterr().out
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_dry_run_reports_the_same_and_writes_nothing(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "liked.jsonl"
    assert run_cli(monkeypatch, "data", "from-records", chats, "--dry-run", "--output", output) == 0
    dry = capsys.readouterr().out.splitlines()
    assert not output.exists()
    run_cli(monkeypatch, "data", "from-records", chats, "--output", output)
    assert capsys.readouterr().out.splitlines()[:-1] == dry[:-1]
    assert dry[-1] == "2 dialogues with 3 liked replies and 1 others as history to write"
    assert run_cli(monkeypatch, "data", "from-records", chats, "--dry-run", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert sum(report.pop("left_out").values()) == 1
    assert report == {
        "replies": 6,
        "liked": 4,
        "disliked": 1,
        "dialogues": 2,
        "responses": 3,
        "history": 1,
        "written": None,
    }


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "output: say where to write, as in --output liked.jsonl, or report only, with --dry-run"),
        (["--output", "chats.db", "--force"], 2, "output: chats.db is the database itself; name another file"),
        (["--output", "taken"], 2, "taken exists; use --force to replace it"),
        (["--output", "no/folder"], 8, "no/folder cannot be written: No such file or directory"),
        (["--dry-run", "--adapter", "geese"], 4, "chats.db: no reply of 'geese'; it holds replies of bees, pirate"),
        (
            ["--output", "new", "--since", "2026-11-06"],
            4,
            "chats.db: no liked reply to train on, so nothing was written",
        ),
        (["--dry-run", "--adapter", "pirate"], 0, ""),
    ],
)
def test_mistakes_are_answered_and_nothing_is_lost(
    chats: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(chats.parent)
    Path("taken").write_text("precious")
    before = chats.read_bytes()
    assert run_cli(monkeypatch, "data", "from-records", "chats.db", *options) == code
    assert message in capsys.readouterr().err
    assert chats.read_bytes() == before
    assert Path("taken").read_text() == "precious"
    assert not Path("new").exists()


@pytest.mark.parametrize("command", [["from-records", "--dry-run", "gone.db"], ["delete-user", "gone.db", "ann"]])
def test_a_missing_or_wrong_database_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, "data", *command) == 4
    assert "gone.db: no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    Path("gone.db").write_text("dear diary " * 100)
    assert run_cli(monkeypatch, "data", *command) == 8
    assert "gone.db: it is no SQLite database" in capsys.readouterr().err


def test_a_user_is_deleted_while_the_server_writes(
    chats: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Records.open(chats)
    for count in ("4 replies", "0 replies"):
        assert run_cli(monkeypatch, "data", "delete-user", chats, "ann") == 0
        assert capsys.readouterr().out == f"{chats}: {count} to 'ann' deleted\n"
    assert server.conversation(recorded("late", user="bob"))
    assert server.count() == 3
    server.close()
    with sqlite3.connect(chats) as other:
        assert other.execute("SELECT DISTINCT user FROM turn").fetchall() == [("bob",)]
