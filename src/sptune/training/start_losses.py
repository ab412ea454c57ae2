"""Which of several trained prompts is best: their losses on a few batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sptune.data.batch import TokenBatch
    from sptune.model.spt import SPTModel

BATCHES = 8


@torch.no_grad()
def start_losses(model: SPTModel, batches: Iterable[dict[str, TokenBatch]], *, starts: int) -> Tensor:
    """(starts,) mean negative log-likelihoods, nats per response token, of the first prompts on the last 8 batches of an epoch."""
    sums, tokens = torch.zeros(starts), 0
    for one in deque(batches, maxlen=BATCHES):  # in a first epoch, none of them was learned from yet
        batch = one["batch"].to(model.backbone.device)
        logprobs = model(batch, first=starts).target_logprobs  # (starts, N)
        sums -= logprobs.cpu().double().sum(1).float()
        tokens += logprobs.shape[1]
    return sums / tokens
