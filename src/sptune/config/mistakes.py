"""What is wrong with a recipe, in words: key, value, and the nearest known key."""

from __future__ import annotations

import copy
import difflib
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sptune.config.recipe import Recipe
from sptune.config.sections import Section


def find_mistakes(raw: dict[str, Any]) -> list[str]:
    """Everything that is wrong, in words. Impossible combinations are looked for in what is left without the keys that are wrong already."""
    try:
        Recipe.model_validate(raw)
    except ValidationError as error:
        faults = error.errors()
    else:
        return []
    wrong = [fault["loc"] for fault in faults if fault["loc"]]
    if not wrong:
        return [line for fault in faults for line in fault["msg"].removeprefix("Value error, ").split("\n")]
    keys = {".".join(map(str, loc)) for loc in wrong}
    rest = copy.deepcopy(raw)
    for loc in wrong:
        _remove(rest, loc)
    return [_explain(fault) for fault in faults] + [
        text for text in find_mistakes(rest) if not any(key in text for key in keys)
    ]


def _explain(fault: ErrorDetails) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = known_keys(Recipe)
        near = (
            difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            or [k for k in known if k.split(".")[-1] == key.split(".")[-1]][:1]
        )
        return f"{key}: unknown key{f'; did you mean {near[0]}?' if near else ''}"
    if fault["type"] == "model_type":
        return f"{key}: a section with keys, such as `{key}: {{...}}` (got {short(fault['input'])})"
    reason = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    return f"{key}: {reason} (got {short(fault['input'])})"


def short(value: Any) -> str:
    """`value` as Python writes it, cut to a line's length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _remove(raw: dict[str, Any], loc: tuple[int | str, ...]) -> None:
    """Take out the key at `loc`, or what holds it where that is no mapping."""
    *parents, last = map(str, loc)
    for part in parents:
        if not isinstance(raw.get(part), dict):
            last = part
            break
        raw = raw[part]
    raw.pop(last, None)


def known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of a section and of those in it, with dots."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys
