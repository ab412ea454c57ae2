"""What is wrong with a recipe, in words: key, value, and the nearest known key."""

from __future__ import annotations

import copy
import difflib
from itertools import zip_longest
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sptune.config.recipe import Recipe
from sptune.config.sections import Section


def find_mistakes(raw: dict[str, Any], kind: type[Section] = Recipe) -> list[str]:
    """Everything that is wrong, in words. Impossible combinations are looked for in what is left without the keys that are wrong already.

    Args:
        raw: the settings.
        kind: what they are to be.
    """
    try:
        kind.model_validate(raw)
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
    explained = [_explain(fault, kind) for fault in faults]
    if rest == raw:
        return explained
    return explained + [text for text in find_mistakes(rest, kind) if not any(key in text for key in keys)]


def _explain(fault: ErrorDetails, kind: type[Section]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = [_in_place(k, fault["loc"]) for k in known_keys(kind)]
        near = (
            difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            or [k for k in known if k.split(".")[-1] == key.split(".")[-1]][:1]
        )
        return f"{key}: unknown key{f'; did you mean {near[0]}?' if near else ''}"
    if fault["type"] == "missing":
        return f"{key}: missing"
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


def _in_place(key: str, loc: tuple[int | str, ...]) -> str:
    """A known key with the names that stand at `loc` in the place of `*`."""
    parts = key.split(".")
    return ".".join(str(at) if part == "*" else part for part, at in zip_longest(parts, loc[: len(parts)]) if part)


def known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of a section and of those in it, with dots; `*` is any name."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        named = get_args(field.annotation)[1:] if get_origin(field.annotation) is dict else ()
        if named and isinstance(named[0], type) and issubclass(named[0], Section):
            keys += known_keys(named[0], f"{prefix}{name}.*.")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys
