from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from recorded import recorded
from sptune.errors import DataError
from sptune.server.records.schema import APPLICATION_ID, MIGRATIONS, migrate
from sptune.server.records.store import Records

FURTHER = (*MIGRATIONS, ("ALTER TABLE turn ADD COLUMN language TEXT", "UPDATE turn SET language = 'en'"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of the present version with one reply that was liked."""
    path = tmp_path / "chats.db"
    records = Records.open(path)
    records.conversation(recorded("c1"))
    records.feedback("c1", rating=1)
    records.close()
    return path


def version(connection: sqlite3.Connection) -> tuple[int, int]:
    [(number,)] = connection.execute("PRAGMA user_version").fetchall()
    [(owner,)] = connection.execute("PRAGMA application_id").fetchall()
    return number, owner


def test_a_new_database_has_the_present_version(old: Path) -> None:
    assert version(sqlite3.connect(old)) == (len(MIGRATIONS), APPLICATION_ID)


def test_an_older_database_is_brought_up_to_date_once_and_keeps_what_it_holds(old: Path) -> None:
    connection = sqlite3.connect(old)
    for _ in range(2):
        migrate(connection, old, FURTHER)
        assert version(connection) == (len(FURTHER), APPLICATION_ID)
        assert connection.execute("SELECT completion, language FROM turn").fetchall() == [("c1", "en")]
    connection.close()
    with pytest.raises(DataError, match=r"chats\.db: version 2 of the records, this sptune reads up to 1; upgrade"):
        Records.open(old)


def test_a_migration_that_fails_changes_nothing(old: Path) -> None:
    connection = sqlite3.connect(old)
    before = list(connection.iterdump())
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        migrate(connection, old, (*FURTHER, ("DROP TABLE feedback", "DROP TABLE gone")))
    assert version(connection) == (len(MIGRATIONS), APPLICATION_ID)
    assert list(connection.iterdump()) == before


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE recipes (name TEXT)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"]
)
def test_a_database_of_something_else_is_left_alone(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute(statement)
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"other\.db: a database of something else; name a file that"):
        Records.open(path)
    assert path.read_bytes() == before
