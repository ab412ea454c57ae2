"""Keeps conversations, selections and feedback in one SQLite file."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sptune.data.dialogue import Dialogue, Turn
from sptune.errors import DataError, StorageError, UsageError
from sptune.files import storage_errors
from sptune.server.records.failure import sqlite_errors
from sptune.server.records.record import RatedReply, TurnRecord
from sptune.server.records.schema import migrate

LOCK_SECONDS = 2.0  # how long to wait for another process
RETRY_SECONDS = (
    10.0  # after a failure nothing is written for so long, so that requests do not queue up before a broken disk
)
DAY = 86_400.0

_log = logging.getLogger(__name__)

_INSERT = """INSERT INTO turn (completion, choice, time, user, model, persona, turns, reply, finish, prompt, scores, margin,
    prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_RATE = """INSERT INTO feedback SELECT id, ?, ?, ? FROM turn WHERE completion = ? AND choice = ?
    ON CONFLICT (turn) DO UPDATE SET time = excluded.time, rating = excluded.rating, comment = excluded.comment"""
_FILTER = "(? IS NULL OR model = ?) AND (? IS NULL OR turn.time >= ?)"
_RATED = f"""SELECT completion, choice, persona, turns, reply, finish, rating FROM turn JOIN feedback ON feedback.turn = turn.id
    WHERE {_FILTER} ORDER BY turn.time, turn.id"""


class Records:
    """An open database of replies. Threads may share it, and other processes may have the same file open.

    What a method has written is with the operating system when it returns: a process that is killed loses nothing that it was told of. A
    power failure can lose the last replies; neither damages the file.

    Attributes:
        path: the file.
        problem: why the last attempt to write failed; None while all is well.
        lost: how many replies could not be kept since the file was opened.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, *, retention_days: float | None) -> None:
        self.path = path
        self.problem: str | None = None
        self.lost = 0
        self._connection = connection
        self._retention_days = retention_days
        self._lock = threading.Lock()
        self._retry_at = 0.0
        self._failing = False  # whether the log was told that replies are lost
        self._identity = _identity(path)

    @classmethod
    def open(cls, path: str | Path, *, retention_days: float | None = None, create: bool = True) -> Records:
        """Open a database, bring it to the present version, and delete what is older than the limit.

        Args:
            path: the file; a new one can be read by its owner alone.
            retention_days: replies older than this are deleted, now and by `purge`; None keeps them.
            create: whether to make the file where there is none.

        Raises:
            UsageError: a limit that is not above 0.
            DataError: no such file and `create=False`, a database of something else, or of a newer version.
            StorageError: the file cannot be opened or written, is locked or damaged.
        """
        path = Path(path)
        if retention_days is not None and not retention_days > 0:
            raise UsageError(f"retention: {retention_days:g} days is not above 0; leave it out to keep everything")
        if not create and not path.is_file():
            raise DataError(f"{path}: no such file; give one that `sptune serve --record` wrote")
        with storage_errors(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        records = cls(_connect(path), path, retention_days=retention_days)
        try:
            records.purge()
        except StorageError:
            records.close()
            raise
        return records

    def close(self) -> None:
        """Close the file; nothing can be kept from now on."""
        with self._lock:
            self._connection.close()

    def conversation(self, record: TurnRecord) -> bool:
        """Keep a reply; one that is kept already stays as it is.

        Where it cannot be kept nothing is raised: the log says so once, `problem` says why, and `lost` goes up until it works again.

        Returns:
            Whether it was kept.
        """
        try:
            with self._writing() as connection:
                connection.execute(_INSERT, _row(record))
        except StorageError as error:
            with self._lock:
                self.lost += 1
                first, self._failing = not self._failing, True
            if first:
                _log.error("%s. The server goes on without records", error)
            return False
        if self._failing:
            self._failing = False
            _log.warning("%s: records are kept again; %d replies were lost so far", self.path, self.lost)
        return True

    def feedback(self, completion_id: str, *, rating: int, comment: str | None = None, choice: int = 0) -> bool:
        """Keep what somebody thinks of a reply, in place of what was thought of it before.

        Args:
            completion_id: id of the completion.
            rating: 1 liked, -1 disliked.
            comment: in their own words.
            choice: number of the reply in the completion, from 0.

        Returns:
            Whether there is such a reply.

        Raises:
            UsageError: another rating.
            StorageError: it cannot be written.
        """
        if rating not in (1, -1):
            raise UsageError(f"rating: {rating!r} is not known; give 1 (liked) or -1 (disliked)")
        values = (time.time(), rating, None if comment is None else _text(comment), _text(completion_id), choice)
        with self._writing() as connection:
            return connection.execute(_RATE, values).rowcount > 0

    def delete_user(self, user: str) -> int:
        """Delete every reply to `user`, with its feedback, and overwrite their place in the file. Returns how many there were.

        Raises:
            StorageError: it cannot be written.
        """
        return self._delete("user = ?", _text(user))

    def purge(self) -> int:
        """Delete what is older than the retention limit, as `delete_user` does. Returns how many replies there were.

        Raises:
            StorageError: it cannot be written.
        """
        if self._retention_days is None:
            return 0
        return self._delete("time < ?", time.time() - self._retention_days * DAY)

    def models(self) -> tuple[str, ...]:
        """The names of all adapters and bare models that replied."""
        return tuple(name for (name,) in self._read("SELECT DISTINCT model FROM turn ORDER BY model", ()))

    def count(self, *, model: str | None = None, since: float | None = None) -> int:
        """How many replies there are, rated or not; filtered as in `rated`."""
        [(count,)] = self._read(f"SELECT count(*) FROM turn WHERE {_FILTER}", (model, model, since, since))
        return int(count)

    def rated(self, *, model: str | None = None, since: float | None = None) -> list[RatedReply]:
        """The replies with feedback, oldest first.

        Args:
            model: only those of this adapter or bare model.
            since: only those from this time on, in seconds since 1970 (UTC).

        Raises:
            DataError: a row that holds no reply.
            StorageError: the file cannot be read.
        """
        return [self._rated(row) for row in self._read(_RATED, (model, model, since, since))]

    def _rated(self, row: tuple[Any, ...]) -> RatedReply:
        completion, choice, persona, turns, reply, finish, rating = row
        try:
            exchanges = tuple(Turn(user, response) for user, response in json.loads(turns))
            name = f"{completion}.{choice}" if choice else completion
            return RatedReply(Dialogue(name, tuple(json.loads(persona)), exchanges).answer(reply), finish, rating)
        except (ValueError, TypeError, IndexError) as error:
            raise DataError(
                f"{self.path}: the reply {completion!r} cannot be read ({error}); delete its row from the table `turn`"
            ) from error

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._lock, sqlite_errors(self.path):
            return self._connection.execute(query, values).fetchall()

    def _delete(self, condition: str, value: object) -> int:
        with self._writing() as connection:
            count = connection.execute(f"DELETE FROM turn WHERE {condition}", (value,)).rowcount
        with self._lock, sqlite_errors(self.path):  # the log beside the file still holds what was deleted
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            _log.warning(
                "%s-wal is in use and may hold deleted text until the file is next closed or purged", self.path
            )
        return count

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end, rolled back on an error."""
        with self._lock:
            if self.problem is not None and time.monotonic() < self._retry_at:
                raise StorageError(self.problem)
            try:
                self._check_place()
                with sqlite_errors(self.path), self._connection:
                    yield self._connection
            except StorageError as error:
                self.problem = str(error)
                self._retry_at = time.monotonic() + RETRY_SECONDS
                raise
            self.problem = None

    def _check_place(self) -> None:
        """Refuse to write into a file that nobody will find: SQLite itself would not mind."""
        if _identity(self.path) != self._identity:
            raise StorageError(f"{self.path}: it was moved or deleted while it was open; put it back, or start again")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file stands at `path`; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    with sqlite_errors(path):
        connection = sqlite3.connect(
            path.resolve(), timeout=LOCK_SECONDS, isolation_level="IMMEDIATE", check_same_thread=False
        )
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not only forgotten
            connection.execute("PRAGMA synchronous = NORMAL")
            migrate(connection, path)
            [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StorageError(f"{path}: SQLite cannot keep its log here (a network drive?); choose another place")
        except BaseException:
            connection.close()
            raise
    return connection


def _row(record: TurnRecord) -> tuple[object, ...]:
    """The values of `_INSERT`."""
    chosen = record.selection
    return (
        _text(record.completion_id),
        record.choice,
        record.time,
        None if record.user is None else _text(record.user),
        _text(record.model),
        json.dumps(record.context.persona),
        json.dumps([(turn.user, turn.response) for turn in record.context.turns]),
        _text(record.reply),
        record.finish,
        None if chosen is None else chosen.prompt,
        None if chosen is None else json.dumps(chosen.scores),
        None if chosen is None else chosen.margin,
        record.prompt_tokens,
        record.completion_tokens,
    )


def _text(text: str) -> str:
    """`text` as SQLite can hold it: JSON can give half a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
