"""What is said where a loss, a gradient or a weight is no finite number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sptune.data.batch import TokenBatch
from sptune.errors import TrainingError
from sptune.training import checkpoint


def is_finite(model: torch.nn.Module) -> bool:
    """Whether all that is trained is finite."""
    return all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad)


def kept_state(checkpoints: Path) -> str:
    """Where the last good state is, in words."""
    newest = checkpoint.newest_checkpoint(checkpoints)
    return f"the last good state is kept in {newest}" if newest else "there was no good state to keep yet"


def step_not_finite(what: str, step: int, batches: Sequence[TokenBatch], *, kept: str) -> TrainingError:
    """The error of a step whose loss or gradient is not finite; names the dialogues of its batches."""
    names = ", ".join(dict.fromkeys(dialogue.id for batch in batches for dialogue in batch.dialogues))
    return TrainingError(
        f"{what} of step {step} is not finite, in the batch of dialogues {names}; {kept}. "
        "Lower training.prompt_lr, set model.dtype=float32, or leave those dialogues out"
    )


def weights_not_finite(step: int, *, kept: str) -> TrainingError:
    """The error of weights that are not finite after a step."""
    return TrainingError(
        f"the prompts or the retriever are not finite after step {step}; {kept}. "
        "Lower training.prompt_lr and training.retriever_lr"
    )
