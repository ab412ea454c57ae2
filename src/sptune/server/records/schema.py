"""The tables of the records, and how an older database becomes a present one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sptune.errors import DataError

APPLICATION_ID = 0x5350_5452  # "SPTR": tells the records from other SQLite databases

# The statements of each version; they are never changed, only added to. `PRAGMA user_version` counts those that have run.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE turn (
            id INTEGER PRIMARY KEY,
            completion TEXT NOT NULL,
            choice INTEGER NOT NULL,
            time REAL NOT NULL,
            user TEXT,
            model TEXT NOT NULL,
            persona TEXT NOT NULL,
            turns TEXT NOT NULL,
            reply TEXT NOT NULL,
            finish TEXT NOT NULL,
            prompt INTEGER,
            scores TEXT,
            margin REAL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            UNIQUE (completion, choice)
        )""",
        "CREATE INDEX turn_by_user ON turn (user)",
        "CREATE INDEX turn_by_time ON turn (time)",
        """CREATE TABLE feedback (
            turn INTEGER PRIMARY KEY REFERENCES turn ON DELETE CASCADE,
            time REAL NOT NULL,
            rating INTEGER NOT NULL CHECK (rating IN (-1, 1)),
            comment TEXT
        )""",
    ),
)


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the database to the present version, all of it or nothing; an empty one gets all tables.

    Args:
        connection: to the database.
        path: its file, for messages.
        migrations: the statements of each version.

    Raises:
        DataError: a database of something else, or of a newer version.
    """
    if _version(connection, path, len(migrations)) == len(migrations):
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # of two processes that open an old file, one waits here for the other
        for statements in migrations[_version(connection, path, len(migrations)) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _version(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """How many migrations the database has seen; 0 for an empty file."""
    version, owner = _pragma(connection, "user_version"), _pragma(connection, "application_id")
    [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if owner != APPLICATION_ID and (owner or version or tables):
        raise DataError(
            f"{path}: a database of something else; name a file that `sptune serve --record` wrote, or a new one"
        )
    if version > newest:
        raise DataError(f"{path}: version {version} of the records, this sptune reads up to {newest}; upgrade sptune")
    return version


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
