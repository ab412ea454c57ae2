"""A copy of a base model, to be changed by training."""

from __future__ import annotations

import copy

from torch import nn

from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase


class OwnBackbone(Backbone):
    """A copy of a base model with something trainable in it. Dropout in what was added follows training mode; the base has none."""

    def train(self, mode: bool = True) -> OwnBackbone:
        """Set the mode of the dropout that was added; all else stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.Dropout) and module.p > 0:
                module.train(mode)
        return self


def own_base(base: LoadedBase, change: str, *, recompute: bool = False) -> LoadedBase:
    """A copy of `base`, still as it was.

    Args:
        base: the shared base model; it is not changed.
        change: what is to be trained; the copy's name tells it, so that an adapter trained on it is not taken for one of the base.
        recompute: compute activations again in the backward pass.
    """
    backbone = base.backbone
    own = OwnBackbone(copy.deepcopy(backbone.model), base=f"{backbone.base}+{change}", revision=backbone.revision)
    if recompute:
        own.checkpoint_activations()
    return LoadedBase(own, base.tokenizer)
