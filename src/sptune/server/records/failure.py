"""What SQLite says when something is wrong, in words that help."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sptune.errors import StorageError

# SQLite's primary result code -> (what is wrong, what to do)
_CAUSES = {
    sqlite3.SQLITE_FULL: ("the disk is full", "free space"),
    sqlite3.SQLITE_IOERR: ("the disk cannot be written or read", "check its space, its quota and its health"),
    sqlite3.SQLITE_BUSY: ("another process has locked it", "wait until that process is done, or end it"),
    sqlite3.SQLITE_READONLY: ("it may not be written", "check its permissions and those of its folder"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "check that its folder exists and may be written"),
    sqlite3.SQLITE_CORRUPT: ("it is damaged", "move it away; `sqlite3 FILE .recover` saves what can be saved"),
    sqlite3.SQLITE_NOTADB: ("it is no SQLite database", "name another file"),
}


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn an error of SQLite on `path` into a `StorageError` that says what to do. It never holds text of a conversation."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)  # the module's own errors have none
        primary = None if code is None else code & 0xFF
        cause, fix = _CAUSES.get(primary or sqlite3.SQLITE_OK, ("SQLite refused", "name another file"))
        raise StorageError(f"{path}: {cause} ({getattr(error, 'sqlite_errorname', error)}); {fix}") from error
