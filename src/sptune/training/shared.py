"""The shared start: K prompts that go on from one, which was trained alone or came out best of several, and parted afterwards."""

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
    """Lets the K prompts begin as one in the first `ceil(share * steps)` steps, then parts them by a little noise.

    With one start only prompt 0 is run until then; its gradient, already clipped, is given to all K rows, so that prompts and optimizer states
    stay equal and training is, step for step, that of K = 1. With several, that many prompts are trained apart, each on all examples; all K go on
    from the one with the lowest loss, and from its optimizer state.

    Every loss is a mean over the K prompts, so once they have parted a prompt's gradient is a K-th of what its optimizer state has seen: it is
    multiplied by K, and clipped prompt by prompt, so that steps stay as long as they were.

    Nothing but the step and the prompts says where training stands, so a resumed run does the same. At least the last step is taken apart. A
    single prompt is left alone.

    Args:
        prompts: the prompts; with `share` > 0 and one start all are set to the first.
        share: 0..1, of the steps.
        noise: standard deviations of the shared prompt.
        seed: of the noise.
        starts: prompts that are trained until then, 1..K.
        losses: mean losses (starts,) of those prompts, asked for once; only needed with several.
        parted: called when they have parted.
    """

    def __init__(
        self,
        prompts: SoftPrompts,
        *,
        share: float,
        noise: float,
        seed: int,
        starts: int = 1,
        losses: Callable[[], Tensor] | None = None,
        parted: Callable[[], None] = lambda: None,
    ) -> None:
        self._prompts = prompts
        self._share = share
        self._noise = noise
        self._seed = seed
        self.starts = starts
        self._losses = losses
        self._parted = parted
        if share > 0 and starts == 1:
            _spread(prompts.embeddings.data)

    def together(self, state: Any) -> bool:
        """Whether the next step still comes before the parting."""
        return int(state.global_step) < self._fork(state)

    def progress_apart(self, state: Any) -> float:
        """Share of the steps after the parting that are done, 0..1."""
        fork = self._fork(state)
        return max(0.0, (int(state.global_step) - fork) / max(1, int(state.max_steps) - fork))

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Part the prompts before the first step that trains them apart."""
        if self._share == 0 or int(state.global_step) != self._fork(state):
            return
        prompts = self._prompts.embeddings
        if self.starts > 1:
            assert self._losses is not None
            best = int(self._losses().argmin())
            for tensor in (prompts.data, *_moments(optimizer, prompts)):
                _spread(tensor, best)
        elif not bool((prompts == prompts[:1]).all()):
            return  # a step that is tried again
        self._part()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give the gradient of prompt 0 to all; once they have parted, give each its own at the size that it had before."""
        gradient = self._prompts.embeddings.grad
        if gradient is None or self._share == 0 or len(gradient) == 1:
            return
        if not self.together(state):
            gradient.mul_(len(gradient))
            _clip_each(gradient, float(args.max_grad_norm or 0))
        elif self.starts == 1:
            _spread(gradient)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep them equal to the last bit: vectorised arithmetic may round the ends of a tensor otherwise than its middle."""
        if self.starts == 1 and self.together(state):
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


def _moments(optimizer: Any, prompts: Tensor) -> list[Tensor]:
    """What the optimizer keeps for every number of the prompts."""
    kept = {} if optimizer is None else getattr(optimizer, "optimizer", optimizer).state.get(prompts, {})
    return [value for value in kept.values() if isinstance(value, Tensor) and value.shape == prompts.shape]


def _clip_each(rows: Tensor, most: float) -> None:
    """Scale every row down to a norm of `most`, which 0 leaves as it is."""
    if most > 0:
        norms = rows.flatten(1).norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
        rows.mul_((most / norms).clamp(max=1.0)[:, None, None])


def _spread(rows: Tensor, source: int = 0) -> None:
    """Set every row to that of `source`."""
    rows.copy_(rows[source : source + 1].clone().expand_as(rows))
