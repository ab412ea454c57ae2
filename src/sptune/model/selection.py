"""Which prompt speaks: the retriever's choice, a draw, a forced prompt, or the one chosen before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sptune.errors import UsageError

SelectionRule = Literal["top1", "sample", "random"]


@dataclass(frozen=True, slots=True)
class Selection:
    """The prompt chosen for one context.

    Attributes:
        prompt: its number, 0 .. K-1.
        scores: K scores s_ik.
        margin: best score minus second best; 0 where K = 1.
    """

    prompt: int
    scores: tuple[float, ...]
    margin: float


def select(
    scores: Tensor, *, rule: SelectionRule = "top1", prompt: int | None = None, generator: torch.Generator | None = None
) -> list[Selection]:
    """Choose a prompt for each of n contexts (paper, section 3.5: k* = argmax_k s_ik).

    Args:
        scores: (n, K) s_ik.
        rule: `top1` takes the best score (the first of equals), `sample` draws from the softmax of the scores, `random` draws from all
            prompts alike, whatever the scores (a control).
        prompt: a forced prompt, whatever the scores.
        generator: of the draws.

    Returns:
        n selections.

    Raises:
        UsageError: there is no prompt of that number.
    """
    count = scores.shape[1]
    if prompt is not None and not 0 <= prompt < count:
        raise UsageError(f"prompt: there is no prompt {prompt}; this adapter has prompts 0 to {count - 1}")
    if prompt is not None:
        chosen = torch.full((scores.shape[0],), prompt)
    elif rule == "sample":
        chosen = torch.multinomial(scores.float().cpu().softmax(1), 1, generator=generator).squeeze(1)
    elif rule == "random":
        chosen = torch.randint(count, (scores.shape[0],), generator=generator)
    else:
        chosen = scores.argmax(1)
    margins = margin(scores)
    return [
        Selection(int(k), tuple(row), float(gap))
        for k, row, gap in zip(chosen.tolist(), scores.tolist(), margins.tolist(), strict=True)
    ]


def margin(scores: Tensor) -> Tensor:
    """(n,) best minus second best of (n, K) scores; zeros where K = 1."""
    if scores.shape[1] == 1:
        return scores.new_zeros(scores.shape[0])
    best = scores.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def stay(previous: Selection | None, current: Selection, *, threshold: float) -> Selection:
    """Sticky selection: keep the previous turn's prompt unless another beats its present score by more than `threshold`.

    Args:
        previous: the selection of the turn before, or None at the first turn.
        current: what the present context alone chooses.
        threshold: a difference of scores, >= 0.
    """
    if previous is None or current.scores[current.prompt] - current.scores[previous.prompt] > threshold:
        return current
    return Selection(previous.prompt, current.scores, current.margin)
