"""Watches the prompts while they train, and warns in words when the method stops working."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from sptune.model.figures import SelectionFigures, selection_figures

if TYPE_CHECKING:
    from sptune.model.spt import SPTModel

COLLAPSE_SHARE = 0.95  # one prompt chosen this often, with K > 1, counts as collapse
ALIKE_NATS = 0.01  # prompts whose losses differ by less than this, per token, counts as alike


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """The prompts themselves.

    Attributes:
        norm_ratio: mean norm of the virtual tokens divided by the mean norm of the vocabulary's embeddings.
        similarity: K x K cosine similarities of the flattened prompts.
    """

    norm_ratio: float
    similarity: tuple[tuple[float, ...], ...]


@torch.no_grad()
def prompt_figures(model: SPTModel) -> PromptFigures:
    """Norms and similarities of the soft prompts."""
    prompts = model.prompts.embeddings  # (K, L, D)
    if model.prompts.length == 0:
        return PromptFigures(0.0, ())
    unit = F.normalize(prompts.flatten(1), dim=1)
    similarity = tuple(tuple(row) for row in (unit @ unit.T).tolist())
    return PromptFigures(float(prompts.norm(dim=2).mean()) / model.backbone.vocabulary_norm(), similarity)


class Monitor:
    """Keeps the last contexts seen in training and turns them into figures and warnings.

    Args:
        window: how many contexts the figures are of.
        centred: the run has `retriever.centre=true` already, so that no warning proposes it.
        clusters: likewise `retriever.keys=clusters`.
        responsibility: likewise `losses.update=responsibility`, or an objective that does not allow it.
    """

    def __init__(
        self, window: int = 512, *, centred: bool = False, clusters: bool = False, responsibility: bool = False
    ) -> None:
        tips = {
            "retriever.centre=true": not centred,
            "retriever.keys=clusters": not clusters,
            "losses.update=responsibility": not responsibility,
            "a smaller losses.selection.teacher_temperature": True,
            "a larger losses.contrastive.weight": True,
        }
        self._responsibility = "" if responsibility else "losses.update=responsibility, "
        self._tips = [tip for tip, is_new in tips.items() if is_new]
        self._scores: deque[Tensor] = deque(maxlen=window)
        self._nll: deque[Tensor] = deque(maxlen=window)
        self._warned: set[str] = set()

    def add(self, scores: Tensor, nll: Tensor) -> None:
        """Take n contexts: scores (n, K) and losses (n, K)."""
        self._scores.extend(scores.detach().float().cpu())
        self._nll.extend(nll.detach().float().cpu())

    def forget(self) -> None:
        """Drop the contexts seen so far: the prompts are others now."""
        self._scores.clear()
        self._nll.clear()

    def figures(self) -> SelectionFigures:
        """Figures of the contexts in the window."""
        return selection_figures(torch.stack(list(self._scores)), torch.stack(list(self._nll)))

    def warnings(self, figures: SelectionFigures, *, progress: float) -> list[str]:
        """What a person should know, each said once, and only after a tenth of training.

        Args:
            figures: of the training window.
            progress: share of training done, 0..1; of the steps in which the prompts are trained apart.
        """
        if len(figures.usage) == 1 or progress < 0.1:
            return []
        found = {}
        share = max(figures.usage)
        if share >= COLLAPSE_SHARE:
            k = figures.usage.index(share)
            found["collapse"] = (
                f"the retriever has collapsed: {share:.0%} of contexts choose prompt {k}. Try {', '.join(self._tips[:-1])}, "
                f"or {self._tips[-1]}; with losses.objective=expected or mixture, a larger losses.balance_weight"
            )
        if progress >= 0.3 and figures.specialisation < ALIKE_NATS:
            found["alike"] = (
                f"the prompts stay alike: the best of them is only {figures.specialisation:.4f} nats per token better than their mean, so "
                f"there is little to select. Try losses.objective=expected with retriever.keys=clusters, {self._responsibility}"
                "a larger training.prompt_lr or prompts.init=random"
            )
        new = [text for name, text in found.items() if name not in self._warned]
        self._warned |= set(found)
        return new
