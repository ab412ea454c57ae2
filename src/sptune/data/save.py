"""Writes dialogues to a file, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sptune.data import convai2
from sptune.data.dialogue import Dialogue, to_messages
from sptune.errors import StorageError, UsageError


def _json_lines(convert: Callable[[Dialogue], object]) -> Callable[[Sequence[Dialogue]], Iterator[str]]:
    def render(dialogues: Sequence[Dialogue]) -> Iterator[str]:
        return (json.dumps(convert(dialogue), ensure_ascii=False) for dialogue in dialogues)

    return render


def to_conversations(dialogue: Dialogue) -> dict[str, Any]:
    """The dialogue as one JSON object in ShareGPT's form, with the persona beside it."""
    record = to_messages(dialogue)
    names = {"user": "human", "assistant": "gpt"}
    conversations = []
    for message in record.pop("messages"):
        said = {"from": names[message.pop("role")], "value": message.pop("content")}
        conversations.append({**said, **message})
    return {**record, "conversations": conversations}


# format -> the lines of a file that holds these dialogues
RENDERERS: dict[str, Callable[[Sequence[Dialogue]], Iterable[str]]] = {
    "messages": _json_lines(to_messages),
    "convai2": convai2.render,
    "sharegpt": _json_lines(to_conversations),
}


def save_dialogues(dialogues: Sequence[Dialogue], path: Path, *, format: str = "messages", force: bool = False) -> None:
    """Write `dialogues` to `path`, by way of a temporary file beside it.

    Raises:
        UsageError: an unknown format, or a `path` that exists without `force`.
        DataError: a dialogue that the format cannot hold.
        StorageError: the file cannot be written.
    """
    if format not in RENDERERS:
        raise UsageError(f"format={format!r} cannot be written; use one of {', '.join(RENDERERS)}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; use --force to replace it, or name another file")
    try:
        _write(RENDERERS[format](dialogues), path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; check the folder and its space"
        ) from error


def _write(lines: Iterable[str], path: Path) -> None:
    """Write `lines` beside `path`, then move them there in one step; a file that is replaced keeps its permissions."""
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
