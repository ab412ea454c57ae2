"""Candidates of an evaluation in progress, kept as they are made, so that one that was stopped in any way goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sptune.evaluation.records import record_line
from sptune.evaluation.rerank import TurnCandidates
from sptune.files import storage_errors, write_text

_READER = TypeAdapter(TurnCandidates)


class PartialCandidates:
    """The candidates that are there already, and a file that grows with those that are made.

    The file's first line says what they depend on; candidates of anything else are not taken over.

    Args:
        path: of the file; None keeps nothing.
        identity: what the candidates depend on: JSON values.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._head = json.dumps({"made by": identity}, sort_keys=True, ensure_ascii=False)
        self._made = {(one.dialogue, one.turn): one for one in self._read()}
        if path:
            write_text(path, "".join(f"{line}\n" for line in (self._head, *map(record_line, self._made.values()))))

    def __len__(self) -> int:
        return len(self._made)

    def get(self, dialogue: str, turn: int) -> TurnCandidates | None:
        """The candidates of a turn; None where they are still to be made."""
        return self._made.get((dialogue, turn))

    def add(self, batch: Sequence[TurnCandidates]) -> None:
        """Keep what was made.

        Raises:
            StorageError: the file cannot be written.
        """
        self._made |= {(one.dialogue, one.turn): one for one in batch}
        if self._path:
            with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
                file.writelines(f"{record_line(one)}\n" for one in batch)

    def _read(self) -> list[TurnCandidates]:
        """What an earlier process left, up to a line that it could not finish."""
        try:
            head, *lines = self._path.read_text(encoding="utf-8").split("\n") if self._path else [""]
        except (OSError, UnicodeDecodeError):
            return []
        kept: list[TurnCandidates] = []
        for line in lines if head == self._head else ():
            try:
                kept.append(_READER.validate_json(line))
            except ValidationError:
                break
        return kept
