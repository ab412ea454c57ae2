"""Keys from a file, which is read again whenever it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

from sptune.errors import UsageError

_log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]


class KeyFile:
    """The keys in a file, one a line; blank lines and lines that begin with # are passed over.

    Keys change while the server runs: the file is looked at with every request. A file that is gone, unreadable or
    empty lets nobody in.

    Args:
        path: the file.
        option: that named it, for messages.

    Raises:
        UsageError: there is no key in it, or it cannot be read.
    """

    def __init__(self, path: Path, *, option: str) -> None:
        self._path = path
        self._option = option
        self._stamp: _Stamp | None = None
        self._digests: tuple[bytes, ...] = ()
        self._stamp, self._digests = self._stamp_of(), self._read()

    def accepts(self, key: str) -> bool:
        """Whether `key` is one of the keys. Takes as long for any wrong key: digests are compared, and all of them."""
        self._refresh()
        digest = _digest(key.encode("utf-8", "surrogateescape"))
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def _refresh(self) -> None:
        try:
            stamp = self._stamp_of()
            if stamp == self._stamp:
                return
            digests = self._read()
        except UsageError as error:
            if self._digests:
                _log.error("keys.unreadable", extra={"note": {"option": self._option, "reason": str(error)}})
            self._stamp, self._digests = None, ()
            return
        self._stamp, self._digests = stamp, digests
        _log.info("keys.read", extra={"note": {"option": self._option, "count": len(digests)}})

    def _stamp_of(self) -> _Stamp:
        """What changes whenever the file does."""
        try:
            found = self._path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[bytes, ...]:
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise self._unreadable(error) from error
        keys = {line.strip() for line in lines if line.strip() and not line.strip().startswith(b"#")}
        if not keys:
            raise UsageError(
                f"{self._option}: {self._path} holds no key; write one a line, of 20 random characters or more"
            )
        return tuple(map(_digest, sorted(keys)))

    def _unreadable(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self._option}: {self._path} cannot be read ({error.strerror or error}); give a file of keys"
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
