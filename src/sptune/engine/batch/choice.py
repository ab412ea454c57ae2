"""The next token of each reply of a batch, whose requests may ask for different decoding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sptune.model.mixture import mixed_logprobs
from sptune.model.sampling import pick

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.engine.batch.reply import Reply


def spoken_together(logits: Tensor, weights: Sequence[Sequence[float]]) -> Tensor:
    """Logits (n, V) of n replies: those of a prompt that speaks alone, else the log-probabilities of the mixture `sum_k w_k p_k`.

    Args:
        logits: (R, V) of all prompts that speak, reply by reply.
        weights: of the prompts of each reply; they sum to 1.
    """
    if len(weights) == len(logits):
        return logits
    parts = torch.split(logits.float(), [len(own) for own in weights])
    return torch.stack(
        [
            part[0] if len(own) == 1 else mixed_logprobs(part.log_softmax(1), own)
            for part, own in zip(parts, weights, strict=True)
        ]
    )


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
