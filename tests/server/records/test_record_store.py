from __future__ import annotations

import itertools
import logging
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorded import context, recorded
from sptune.data.dialogue import Dialogue, Turn
from sptune.errors import DataError, StorageError, UsageError
from sptune.server.records import store
from sptune.server.records.store import DAY, Records

text = st.text(max_size=8)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = Records.open(tmp_path / "chats.db")
    yield opened
    opened.close()


def rows(records: Records, query: str) -> list[tuple[object, ...]]:
    """What another process reads from the file."""
    other = sqlite3.connect(records.path)
    try:
        return other.execute(query).fetchall()
    finally:
        other.close()


def bytes_of(path: Path) -> bytes:
    """The database and the files beside it."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_everything_of_a_reply_is_kept(records: Records) -> None:
    assert records.conversation(recorded("c1", "Hi!", "Hello.", "And?", time=1000.5))
    columns = "completion, choice, time, user, model, persona, turns, reply, finish"
    assert rows(records, f"SELECT {columns} FROM turn") == [
        (
            "c1",
            0,
            1000.5,
            "ann",
            "bees",
            '["I keep bees.", "I fear geese."]',
            '[["Hi!", "Hello."], ["And?", null]]',
            "Mind the hive.",
            "stop",
        )
    ]
    numbers = rows(records, "SELECT prompt, scores, margin, prompt_tokens, completion_tokens FROM turn")
    assert numbers == [(1, "[0.25, 0.75]", 0.5, 12, 5)]


def test_a_bare_model_has_no_selection_and_a_guest_no_name(records: Records) -> None:
    assert records.conversation(recorded("c1", selection=None, user=None))
    assert rows(records, "SELECT user, prompt, scores, margin FROM turn") == [(None, None, None, None)]


def test_the_first_record_of_a_reply_stays_and_its_feedback_too(records: Records) -> None:
    records.conversation(recorded("c1", reply="first"))
    records.feedback("c1", rating=1)
    assert records.conversation(recorded("c1", reply="second"))
    assert [reply.dialogue.turns[-1].response for reply in records.rated()] == ["first"]


def test_feedback_replaces_what_was_thought_before_and_knows_its_reply(records: Records) -> None:
    records.conversation(recorded("c1"))
    assert records.feedback("c1", rating=1, comment="so true")
    assert records.feedback("c1", rating=-1)
    assert not records.feedback("c2", rating=1)
    assert rows(records, "SELECT rating, comment FROM feedback") == [(-1, None)]
    with pytest.raises(UsageError, match=r"rating: 0 is not known; give 1 \(liked\) or -1"):
        records.feedback("c1", rating=0)


def test_the_replies_of_one_completion_are_rated_one_by_one(records: Records) -> None:
    for choice in range(3):
        records.conversation(recorded("c1", reply=f"reply {choice}", choice=choice))
    assert records.feedback("c1", rating=1, choice=2)
    assert not records.feedback("c1", rating=1, choice=3)
    [reply] = records.rated()
    assert (reply.dialogue.id, reply.dialogue.turns[-1].response) == ("c1.2", "reply 2")


def test_filters_choose_by_model_and_time(records: Records) -> None:
    for number, model in enumerate(["bees", "geese", "bees"]):
        records.conversation(recorded(f"c{number}", model=model, time=float(number)))
        records.feedback(f"c{number}", rating=1)
    records.conversation(recorded("c3", model="bees", time=3.0))

    def chosen(**filters: object) -> list[str]:
        return [reply.dialogue.id for reply in records.rated(**filters)]

    assert chosen() == ["c0", "c1", "c2"]
    assert chosen(model="bees") == ["c0", "c2"]
    assert chosen(since=1.0) == ["c1", "c2"]
    assert chosen(model="bees", since=1.0) == ["c2"]
    assert (records.count(), records.count(model="bees"), records.count(model="bees", since=1.0)) == (4, 3, 2)
    assert records.models() == ("bees", "geese")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    """A database for the many examples of one test."""
    opened = Records.open(tmp_path_factory.mktemp("shared") / "chats.db")
    yield opened
    opened.close()


NUMBERS = itertools.count()
dialogues = st.builds(
    Dialogue,
    st.builds(lambda: str(next(NUMBERS))),
    st.lists(text, max_size=3).map(tuple),
    st.builds(lambda history, user: (*history, Turn(user)), st.lists(st.builds(Turn, text, text), max_size=3), text),
)


@settings(deadline=None)
@given(dialogues, text, text)
def test_a_dialogue_comes_back_as_it_was(shared: Records, talk: Dialogue, reply: str, user: str) -> None:
    assert shared.conversation(replace(recorded(talk.id, reply=reply, user=user), context=talk))
    assert shared.feedback(talk.id, rating=-1)
    assert shared.rated()[-1].dialogue == talk.answer(reply)


def test_half_a_surrogate_pair_is_no_obstacle(records: Records) -> None:
    half = "\ud800"
    assert records.conversation(recorded("c1", half, reply=half, user=half))
    assert records.feedback("c1", rating=1, comment=half)
    assert not records.feedback(half, rating=1)
    assert records.rated()[0].dialogue.turns[-1].response == "?"
    assert records.delete_user(half) == 1


def test_deleting_a_user_leaves_the_others_and_no_byte_of_the_text(records: Records) -> None:
    secrets = (b"ANNS-MESSAGE", b"ANNS-REPLY", b"ANNS-PERSONA", b"ANNS-COMMENT", b"ann-4711")
    for number in range(50):
        mine = context(f"ANNS-MESSAGE {number} " * 40, persona=("ANNS-PERSONA",))
        records.conversation(replace(recorded(f"a{number}", reply="ANNS-REPLY", user="ann-4711"), context=mine))
        records.conversation(recorded(f"b{number}", "BOBS-MESSAGE", user="bob"))
        records.feedback(f"a{number}", rating=1, comment="ANNS-COMMENT")
        records.feedback(f"b{number}", rating=1)
    before = bytes_of(records.path)
    assert all(secret in before for secret in secrets)
    assert records.delete_user("ann-4711") == 50
    after = bytes_of(records.path)
    assert not [secret for secret in secrets if secret in after]
    assert len(records.rated()) == records.count() == 50
    assert rows(records, "SELECT count(*) FROM feedback") == [(50,)]
    assert records.delete_user("ann-4711") == 0


def test_deleted_text_goes_while_another_process_has_the_file_open(records: Records) -> None:
    other = Records.open(records.path)
    other.conversation(recorded("c1", "ANNS-MESSAGE"))
    assert records.delete_user("ann") == 1
    assert b"ANNS-MESSAGE" not in bytes_of(records.path)
    assert other.conversation(recorded("c2"))
    other.close()


def test_a_reader_in_the_way_is_named_and_the_rest_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    records = Records.open(tmp_path / "chats.db")
    records.conversation(recorded("c1", "ANNS-MESSAGE"))
    reader = sqlite3.connect(records.path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM turn").fetchone() == (1,)
    with caplog.at_level(logging.WARNING):
        assert records.delete_user("ann") == 1
    assert "chats.db-wal is in use and may hold deleted text" in caplog.text
    reader.close()
    records.delete_user("ann")
    assert b"ANNS-MESSAGE" not in bytes_of(records.path)
    records.close()


def test_what_is_older_than_the_limit_goes_when_opened_and_when_purged(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    records = Records.open(path)
    for days in (1, 29, 31, 400):
        records.conversation(recorded(f"c{days}", f"ASKED-{days}", time=time.time() - days * DAY))
        records.feedback(f"c{days}", rating=1)
    assert records.purge() == 0
    records.close()
    records = Records.open(path, retention_days=30)
    assert [reply.dialogue.id for reply in records.rated()] == ["c29", "c1"]
    assert b"ASKED-31" not in bytes_of(path)
    records.conversation(recorded("late", time=time.time() - 30.5 * DAY))
    assert records.purge() == 1
    assert records.purge() == 0
    records.close()
    with pytest.raises(UsageError, match="retention: 0 days is not above 0"):
        Records.open(path, retention_days=0)


def test_a_new_file_is_for_its_owner_alone_and_an_old_one_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    for number in range(2):
        records = Records.open(path)
        records.conversation(recorded(f"c{number}"))
        assert records.count() == number + 1
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
        records.close()
    assert [file.name for file in tmp_path.iterdir()] == ["chats.db"]


def test_a_missing_file_is_made_only_where_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.db: no such file; give one that `sptune serve --record` wrote"):
        Records.open(tmp_path / "gone.db", create=False)
    with pytest.raises(StorageError, match=r"chats\.db: cannot be written \(No such file or directory\)"):
        Records.open(tmp_path / "no" / "such" / "folder" / "chats.db")
    with pytest.raises(StorageError, match="cannot be written"):
        Records.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_somebody_spoiled_is_named(records: Records) -> None:
    records.conversation(recorded("c1"))
    records.feedback("c1", rating=1)
    with sqlite3.connect(records.path) as other:
        other.execute("UPDATE turn SET turns = '[[1'")
    with pytest.raises(DataError, match="the reply 'c1' cannot be read"):
        records.rated()


def test_threads_share_one_file_without_losing_or_mixing_anything(records: Records) -> None:
    def talk(thread: int) -> None:
        for number in range(40):
            name = f"{thread}-{number}"
            assert records.conversation(recorded(name, f"asks {name}", reply=f"answers {name}", user=str(thread)))
            assert records.feedback(name, rating=1 if number % 2 else -1)
            if number == 20:
                records.count()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(talk, range(8)))
    rated = records.rated()
    assert len(rated) == records.count() == 320
    for reply in rated:
        name = reply.dialogue.id
        assert reply.dialogue.turns == (Turn(f"asks {name}", f"answers {name}"),)
        assert reply.rating == (1 if int(name.split("-")[1]) % 2 else -1)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(records.delete_user, map(str, range(8)))) == [40] * 8


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from recorded import recorded
from sptune.server.records.store import Records
records = Records.open({path!r})
for number in range({count}):
    assert records.conversation(recorded(f"{name}-{{number}}", f"asks {{number}}", selection=None)), records.problem
    assert records.feedback(f"{name}-{{number}}", rating=1)
    print(number, flush=True)
print("done", flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A process that writes replies, and says of each when it is kept."""
    source = WRITER.format(tests=str(Path(__file__).parents[2]), path=str(path), name=name, count=count)
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)


def test_processes_share_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    writers = [writer(path, name, 50) for name in "abc"]
    for process in writers:
        out, _ = process.communicate(timeout=60)
        assert out.endswith("done\n")
    records = Records.open(path)
    assert len(records.rated()) == 150
    records.close()


def test_kill_9_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    for name in "ab":
        process = writer(path, name, 1_000_000)
        kept = [process.stdout.readline() for _ in range(200)]
        process.kill()
        kept += process.stdout.readlines()
        process.wait()
        told = sum(line.endswith("\n") for line in kept)
        records = Records.open(path)
        assert rows(records, "PRAGMA integrity_check") == [("ok",)]
        mine = [reply.dialogue.id for reply in records.rated() if reply.dialogue.id.startswith(name)]
        assert mine == [f"{name}-{number}" for number in range(len(mine))]
        assert told <= len(mine) <= told + 1
        assert records.conversation(recorded(f"after {name}"))
        records.close()


def test_closing_waits_for_a_write_and_ends_keeping(records: Records) -> None:
    writers = [threading.Thread(target=records.conversation, args=(recorded(f"c{n}"),)) for n in range(8)]
    for thread in writers:
        thread.start()
    records.close()
    for thread in writers:
        thread.join()
    assert not records.conversation(recorded("late"))
    assert "closed database" in str(records.problem)
    again = Records.open(records.path)
    assert again.count() + records.lost == 9
    again.close()
