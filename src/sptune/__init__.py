"""Selective Prompt Tuning: K soft prompts on a frozen language model, and a retriever that picks one per context."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sptune.data.dialogue import Dialogue, Turn
    from sptune.data.load import load_dialogues
    from sptune.errors import SptError
    from sptune.model.generate import Decoding
    from sptune.model.load import load_base
    from sptune.model.selection import Selection
    from sptune.model.spt import Reply, SPTModel
    from sptune.training.trainer import SPTTrainer

_PUBLIC = {
    "Decoding": "sptune.model.generate",
    "Dialogue": "sptune.data.dialogue",
    "Reply": "sptune.model.spt",
    "SPTModel": "sptune.model.spt",
    "SPTTrainer": "sptune.training.trainer",
    "Selection": "sptune.model.selection",
    "SptError": "sptune.errors",
    "Turn": "sptune.data.dialogue",
    "load_base": "sptune.model.load",
    "load_dialogues": "sptune.data.load",
}

__all__ = [
    "Decoding",
    "Dialogue",
    "Reply",
    "SPTModel",
    "SPTTrainer",
    "Selection",
    "SptError",
    "Turn",
    "__version__",
    "load_base",
    "load_dialogues",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that `import sptune` needs neither torch nor transformers."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sptune' has no attribute {name!r}")
