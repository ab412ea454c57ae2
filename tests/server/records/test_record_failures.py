from __future__ import annotations

import logging
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recorded import recorded
from sptune.errors import StorageError
from sptune.server.records import store
from sptune.server.records.failure import sqlite_errors
from sptune.server.records.store import Records


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Records]:
    """Waits hardly at all for other processes, and tries again soon."""
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.3)
    opened = Records.open(tmp_path / "chats.db")
    opened.conversation(recorded("c0"))
    yield opened
    opened.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the file."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_locked_database_loses_replies_and_says_so_once(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    problem = f"{records.path}: another process has locked it (SQLITE_BUSY); wait until that process is done, or end it"
    with locked(records.path):
        for number in range(5):
            assert not records.conversation(recorded(f"lost-{number}", "A-SECRET", reply="A-SECRET", user="A-SECRET"))
            assert records.problem == problem
        with pytest.raises(StorageError, match="another process has locked it"):
            records.feedback("c0", rating=1, comment="A-SECRET")
        assert records.count() == 1, "reading goes on"
    assert not records.conversation(recorded("too soon"))
    time.sleep(0.3)
    assert records.conversation(recorded("c1"))
    assert (records.problem, records.lost) == (None, 6)
    assert [(entry.levelno, entry.message) for entry in caplog.records] == [
        (logging.ERROR, f"{problem}. The server goes on without records"),
        (logging.WARNING, f"{records.path}: records are kept again; 6 replies were lost so far"),
    ]


def test_requests_do_not_queue_up_before_a_locked_database(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", 60.0)
    with locked(records.path):
        records.conversation(recorded("waits for the lock"))
        monkeypatch.setattr(Records, "_check_place", lambda self: pytest.fail("tried again"))
        for number in range(1000):
            assert not records.conversation(recorded(f"c{number}"))


def test_a_disk_that_takes_no_more_loses_replies_until_it_does(records: Records) -> None:
    log = records.path.with_name("chats.db-wal")
    with files_of_at_most(log.stat().st_size + 20_000):
        kept = 0
        while records.conversation(recorded(f"big-{kept}", "a" * 3000)):
            kept += 1
        assert 0 < kept < 10
        assert "chats.db: the disk cannot be written or read (SQLITE_IOERR_WRITE); check its space" in str(
            records.problem
        )
    time.sleep(0.3)
    assert records.conversation(recorded("after"))
    assert records.count() == kept + 2
    with sqlite3.connect(records.path) as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "small.db")
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE t (x)")
    with (
        pytest.raises(StorageError, match=r"small\.db: the disk is full \(SQLITE_FULL\); free space"),
        sqlite_errors(tmp_path / "small.db"),
    ):
        connection.execute("INSERT INTO t VALUES (?)", ("a" * 10_000,))


def test_a_file_that_was_moved_away_gets_no_replies_until_it_is_back(records: Records) -> None:
    away = records.path.with_name("away.db")
    records.path.rename(away)
    assert not records.conversation(recorded("lost"))
    assert "chats.db: it was moved or deleted while it was open; put it back" in str(records.problem)
    away.rename(records.path)
    time.sleep(0.3)
    assert records.conversation(recorded("c1"))
    assert records.count() == 2


def test_a_damaged_database_is_told_from_an_empty_and_a_wrong_file(records: Records) -> None:
    for number in range(200):
        records.conversation(recorded(f"c{number}", "a" * 500))
        records.feedback(f"c{number}", rating=1)
    records.close()
    whole = records.path.read_bytes()
    records.path.write_bytes(whole[:8192] + b"\x55" * (len(whole) - 8192))
    damaged = Records.open(records.path)
    with pytest.raises(StorageError, match=r"it is damaged \(SQLITE_CORRUPT.*recover"):
        damaged.rated()
    assert not damaged.conversation(recorded("new"))
    damaged.close()
    records.path.write_text("dear diary " * 500)
    with pytest.raises(StorageError, match=r"chats\.db: it is no SQLite database \(SQLITE_NOTADB\); name another file"):
        Records.open(records.path)
    assert records.path.read_text().startswith("dear diary")
    records.path.write_bytes(b"")
    empty = Records.open(records.path)
    assert empty.count() == 0
    empty.close()


def test_a_locked_database_can_be_opened_to_read_but_not_to_delete(records: Records) -> None:
    with locked(records.path):
        reader = Records.open(records.path, create=False)
        assert reader.count() == 1
        reader.close()
        with pytest.raises(StorageError, match="another process has locked it"):
            Records.open(records.path, retention_days=30)
