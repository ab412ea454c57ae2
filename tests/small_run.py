"""Small training runs to test with: invented dialogues, a saved tiny base model, a trainer, and the command line."""

from __future__ import annotations

import gc
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sptune.config import LossesSection, TrainingSection
from sptune.data.dialogue import Dialogue, Turn, to_messages
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from sptune.training.trainer import SPTTrainer
from tiny import tiny_spt

# transformers collects garbage before each run; without the imported modules that takes a hundredth of the time.
gc.collect()
gc.freeze()

WORDS = (
    "i",
    "you",
    "keep",
    "mend",
    "sing",
    "bees",
    "boats",
    "bread",
    "maps",
    "nets",
    "lamps",
    "winter",
    "rope",
    "clay",
)


def talks(count: int, *, seed: int = 0, turns: int | None = None, words: int | None = None) -> list[Dialogue]:
    """Dialogues of random words: 1 to 4 turns of 2 to 6 words, or as many as asked for."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=words or draw.randint(2, 6)))

    return [
        Dialogue(
            f"talk-{seed}-{n}",
            (text(), text()),
            tuple(Turn(text(), text()) for _ in range(turns or draw.randint(1, 4))),
        )
        for n in range(count)
    ]


def write_talks(path: Path, dialogues: Sequence[Dialogue]) -> Path:
    """Write dialogues as JSON lines."""
    path.write_text("".join(json.dumps(to_messages(talk)) + "\n" for talk in dialogues), encoding="utf-8")
    return path


def save_base(base: LoadedBase, folder: Path) -> Path:
    """Save a base model and its tokenizer as transformers does."""
    base.backbone.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def small_trainer(
    model: SPTModel | LoadedBase,
    folder: Path,
    *,
    train: Sequence[Dialogue] | None = None,
    losses: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **training: Any,
) -> SPTTrainer:
    """A trainer of 12 dialogues in small batches; `training` and `losses` as in a recipe, `options` as `SPTTrainer` takes them."""
    settings = {"batch_tokens": 128, "checkpoint_every": 3, "log_every": 2, "report_to": (), "prompt_lr": 0.05}
    return SPTTrainer(
        tiny_spt(model) if isinstance(model, LoadedBase) else model,
        talks(12) if train is None else train,
        folder=folder,
        training=TrainingSection.model_validate(settings | training),
        losses=LossesSection.model_validate(losses or {}),
        **(options or {}),
    )


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """What `sptune ARGUMENTS` exits with, in this process. An error that is no answer to the user is raised."""
    from sptune.cli.main import main

    monkeypatch.setattr(sys, "argv", ["sptune", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)
