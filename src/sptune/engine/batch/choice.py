"""The next token of each reply of a batch, whose requests may ask for different decoding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sptune.model.sampling import pick

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.engine.batch.reply import Reply


def next_tokens(logits: Tensor, replies: Sequence[Reply]) -> list[int]:
    """The next token of each reply; it does not depend on the others.

    Args:
        logits: (R, V).
        replies: R replies.
    """
    probs = logits.float().softmax(1)  # (R, V)
    rows_of: dict[float, list[int]] = defaultdict(list)
    for row, reply in enumerate(replies):
        if banned := reply.banned():
            probs[row, list(banned)] = 0.0
        decoding = reply.prepared.decoding
        rows_of[decoding.top_p if decoding.temperature else 1.0].append(row)
    tokens = [0] * len(replies)
    for top_p, rows in rows_of.items():
        temperature = [replies[row].prepared.decoding.temperature for row in rows]
        chosen = pick(
            probs if len(rows) == len(replies) else probs[rows],
            temperature=torch.tensor(temperature, device=probs.device),
            draw=torch.tensor([replies[row].draw for row in rows], device=probs.device),
            top_p=top_p,
        )
        for row, token in zip(rows, chosen.tolist(), strict=True):
            tokens[row] = token
    return tokens
