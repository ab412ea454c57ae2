"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sptune.errors import StorageError


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error on `path` into a `StorageError` that says what to do. safetensors has a class of its own for them."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{path}: cannot be written ({reason}); free space or choose another place") from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a new path in the same folder, flush it to disk and put it in the place of `path` in one step.

    On systems that cannot swap two folders in one step (others than Linux), a folder that is replaced is moved aside first.

    Args:
        path: a file or a folder; a file of that name is replaced, a folder of that name is replaced too.
        write: makes the file or folder at the path it is given.

    Raises:
        StorageError: the disk is full, or the folder may not be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            write(partial)
            _flush(partial)
            _replace(partial, path)
            _flush_one(path.parent)
        finally:
            _remove(partial)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda partial: _write(partial, text))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; refuses NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _replace(partial: Path, path: Path) -> None:
    if not (partial.is_dir() and path.is_dir()):
        os.replace(partial, path)
    elif not _exchange(partial, path):
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        os.replace(path, old)
        try:
            os.replace(partial, path)
        except OSError:
            os.replace(old, path)
            raise
        shutil.rmtree(old)


def _exchange(partial: Path, path: Path) -> bool:
    """Swap two folders in one step; what was at `path` is then at `partial`. False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(partial), here, os.fsencode(path), exchange) == 0


def _flush(path: Path) -> None:
    for part in [path, *path.rglob("*")] if path.is_dir() else [path]:
        _flush_one(part)


def _flush_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
