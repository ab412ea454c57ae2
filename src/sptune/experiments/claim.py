"""Claiming a folder for one process: a lock file that the system opens again when its owner dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sptune.files import storage_errors

LOCK_NAME = "lock"
PATIENCE = 2.0  # seconds; another process may just be looking whether the lock is held


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold `folder` for as long as this lasts.

    Args:
        folder: made where missing. `lock` in it names the owner's process and host.

    Returns:
        Whether this process holds it; False where another one does.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / LOCK_NAME
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=PATIENCE)
        try:
            lock.acquire()
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        except Timeout:
            pass
    try:
        yield lock.is_locked
    finally:
        lock.release()


def owner(folder: Path) -> str | None:
    """The process that holds `folder`; None where none does, or the one that did is dead."""
    path = folder / LOCK_NAME
    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0):
            return None
    except Timeout:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except PermissionError:  # another user's: whether it is held cannot be told, and nothing here will claim it
        return None
