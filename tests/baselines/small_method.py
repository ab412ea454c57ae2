"""A small recipe for compared methods, and the types of their fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sptune.baselines.method import Method
from sptune.config import Recipe, parse_recipe

Maker = Callable[..., Method]
Fitted = Callable[..., tuple[Method, Path]]

SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"base": "tiny"},
    "template": {"max_length": 200, "reserve": 16},
    "prompts": {"count": 2, "length": 3},
    "training": {"batch_tokens": 160, "checkpoint_every": 3, "log_every": 2, "report_to": []},
}


def small_recipe(**changes: dict[str, Any]) -> Recipe:
    """A recipe of a tiny model; `changes` are sections, merged key by key."""
    return parse_recipe({name: {**SECTIONS.get(name, {}), **changes.get(name, {})} for name in SECTIONS | changes})
