"""The shared start: K prompts trained as one, for the cost of one, and parted afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback

if TYPE_CHECKING:
    from sptune.model.prompts import SoftPrompts


class SharedPrompts(TrainerCallback):
    """Keeps the K prompts equal for the first `ceil(share * steps)` steps, then parts them by a little noise.

    Until then only prompt 0 is run; its gradient, already clipped, is given to all K rows, so that prompts and optimizer states stay equal and
    training is, step for step, that of K = 1. Nothing but the step and the prompts says where training stands, so a resumed run does the same.
    At least the last step is taken apart. A single prompt is left alone.

    Args:
        prompts: the prompts; with `share` > 0 all are set to the first.
        share: 0..1, of the steps.
        noise: standard deviations of the shared prompt.
        seed: of the noise.
        parted: called when they have parted.
    """

    def __init__(
        self, prompts: SoftPrompts, *, share: float, noise: float, seed: int, parted: Callable[[], None] = lambda: None
    ) -> None:
        self._prompts = prompts
        self._share = share
        self._noise = noise
        self._seed = seed
        self._parted = parted
        if share > 0:
            _spread(prompts.embeddings.data)

    def together(self, state: Any) -> bool:
        """Whether the next step still trains the prompts as one."""
        return int(state.global_step) < self._fork(state)

    def progress_apart(self, state: Any) -> float:
        """Share of the steps after the parting that are done, 0..1."""
        fork = self._fork(state)
        return max(0.0, (int(state.global_step) - fork) / max(1, int(state.max_steps) - fork))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Part the prompts before the first step that trains them apart."""
        prompts = self._prompts.embeddings.data
        if self._share > 0 and int(state.global_step) == self._fork(state) and bool((prompts == prompts[:1]).all()):
            self._part()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give the gradient of prompt 0 to all."""
        if self.together(state) and self._prompts.embeddings.grad is not None:
            _spread(self._prompts.embeddings.grad)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep them equal to the last bit: vectorised arithmetic may round the ends of a tensor otherwise than its middle."""
        if self.together(state):
            _spread(self._prompts.embeddings.data)

    def _fork(self, state: Any) -> int:
        return min(math.ceil(self._share * int(state.max_steps)), max(0, int(state.max_steps) - 1))

    def _part(self) -> None:
        prompts = self._prompts.embeddings.data
        if len(prompts) > 1:
            generator = torch.Generator().manual_seed(self._seed)
            noise = torch.randn(prompts.shape, generator=generator).to(prompts.device)
            prompts.add_(self._noise * prompts[0].std() * noise)
        self._parted()


def _spread(rows: Tensor) -> None:
    """Set every row to the first."""
    rows.copy_(rows[:1].clone().expand_as(rows))
