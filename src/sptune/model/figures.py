"""How well the prompts are used: figures of selection, for the training monitor and for evaluation alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sptune.model.selection import margin


@dataclass(frozen=True, slots=True)
class SelectionFigures:
    """Figures of n contexts and K prompts. Losses are means over contexts of l_ik, nats per token.

    Attributes:
        usage: K shares of contexts that chose each prompt; they sum to 1.
        entropy: of the usage, divided by log K: 0 is one prompt for all, 1 is every prompt equally. 1 where K = 1.
        agreement: share of contexts whose chosen prompt has the lowest loss; chance is 1/K.
        regret: loss of the chosen prompt minus that of the best, >= 0.
        specialisation: mean loss of the prompts minus that of the best, >= 0: what selection could win at most, in hindsight.
        margin: mean of best minus second-best score.
    """

    usage: tuple[float, ...]
    entropy: float
    agreement: float
    regret: float
    specialisation: float
    margin: float


def selection_figures(scores: Tensor, nll: Tensor, *, chosen: Tensor | None = None) -> SelectionFigures:
    """Figures of selection.

    Args:
        scores: (n, K) s_ik.
        nll: (n, K) l_ik, nats per token.
        chosen: (n,) the prompt of each context; None is the one of the best score.

    >>> selection_figures(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 3.0], [4.0, 2.0]])).regret
    1.0
    """
    count = scores.shape[1]
    chosen = scores.argmax(1) if chosen is None else chosen  # (n,)
    best = nll.min(1).values
    usage = torch.bincount(chosen, minlength=count).double() / len(chosen)
    entropy = float(torch.special.entr(usage).sum() / torch.tensor(count).double().log()) if count > 1 else 1.0
    chosen_nll = nll.gather(1, chosen[:, None]).squeeze(1)
    return SelectionFigures(
        usage=tuple(usage.tolist()),
        entropy=entropy,
        agreement=float((chosen_nll <= best).double().mean()),
        regret=float((chosen_nll - best).double().mean()),
        specialisation=float((nll.mean(1) - best).double().mean()),
        margin=float(margin(scores).double().mean()),
    )
