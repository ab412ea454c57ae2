"""The personas that requests can give by name, from a YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml

from sptune.config.strict_yaml import read_yaml
from sptune.data.lines import bad_character
from sptune.data.messages import split_sentences
from sptune.errors import DataError


def read_personas(path: Path) -> dict[str, tuple[str, ...]]:
    """The personas of a file: a mapping of names to lists of sentences, or to one text.

    Args:
        path: a YAML file such as `sailor: [I sail., I have two dogs.]`.

    Raises:
        DataError: missing, unreadable, or a persona that is no list of sentences; names file and persona.
    """
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); give a YAML file of personas") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict) or not raw:
        raise DataError(
            f"{path}: holds no personas; write a name and a list of sentences each, as in sailor: [I sail.]"
        )
    return {name: _sentences(value, f"{path}: {name}") for name, value in raw.items()}


def _sentences(value: object, place: str) -> tuple[str, ...]:
    parts = list(split_sentences(value)) if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        raise DataError(f"{place}: is {value!r:.80}, not a list of sentences; write for instance [I sail., I bake.]")
    for part in parts:
        if not isinstance(part, str) or not part.strip():
            raise DataError(f"{place}: {part!r:.80} is no sentence; put it in quotes")
        if fault := bad_character(part):
            raise DataError(f"{place}: a sentence has {fault[1]}; remove the character")
    return tuple(part.strip() for part in parts)
