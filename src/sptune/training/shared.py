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
    """Lets the K prompts begin as few in the first `ceil(share * steps)` steps, then parts them by a little noise.

    With one start only prompt 0 is run until then; its gradient, already clipped, is given to all K rows, so that prompts and optimizer states
    stay equal and training is, step for step, that of K = 1. With S starts, the first S prompts are trained apart, each on all examples. Then all
    K go on from the start with the lowest loss; or, where all starts are kept, prompt k from start k mod S. Each takes its start's optimizer
    state along.

    Every loss is a mean over the prompts that are run, so a prompt's gradient is a share of what it would have alone, and after the parting a
    smaller one than its optimizer state has seen. It is given back its size, and clipped prompt by prompt, so that steps stay as long as those of
    one prompt alone.

    Nothing but the step and the prompts says where training stands, so a resumed run does the same. At least the last step is taken apart. A
    single prompt is left alone.

    Args:
        prompts: the prompts; with `share` > 0 and one start all are set to the first.
        share: 0..1, of the steps.
        noise: standard deviations of the shared prompt.
        seed: of the noise.
        starts: S, prompts that are trained until then, 1..K.
        keep: let all starts go on; S divides K.
        losses: mean losses (S,) of the starts, asked for once; only needed with several of which one goes on.
        parted: called when they have parted.
    """

    def __init__(  # noqa: PLR0913 - what a shared start is made of
        self,
        prompts: SoftPrompts,
        *,
        share: float,
        noise: float,
        seed: int,
        starts: int = 1,
        keep: bool = False,
        losses: Callable[[], Tensor] | None = None,
        parted: Callable[[], None] = lambda: None,
    ) -> None:
        self._prompts = prompts
        self._share = share
        self._noise = noise
        self._seed = seed
        self.starts = starts
        self._keep = keep
        self._losses = losses
        self._parted = parted
        if share > 0 and starts == 1:
            _spread(prompts.embeddings.data, 0)

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
            origin = self._origins()
            for tensor in (prompts.data, *_moments(optimizer, prompts)):
                _spread(tensor, origin)
        elif not bool((prompts == prompts[:1]).all()):
            return  # a step that is tried again
        self._part()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give the gradient of prompt 0 to all, or each prompt its own at the size that it would have alone."""
        gradient = self._prompts.embeddings.grad
        if gradient is None or self._share == 0 or len(gradient) == 1:
            return
        run = self.starts if self.together(state) else len(gradient)
        if run == 1:
            _spread(gradient, 0)
        else:
            gradient.mul_(run)
            _clip_each(gradient, float(args.max_grad_norm or 0))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep them equal to the last bit: vectorised arithmetic may round the ends of a tensor otherwise than its middle."""
        if self.starts == 1 and self.together(state):
            _spread(self._prompts.embeddings.data, 0)

    def _fork(self, state: Any) -> int:
        return min(math.ceil(self._share * int(state.max_steps)), max(0, int(state.max_steps) - 1))

    def _origins(self) -> int | Tensor:
        """The start, or for each prompt the start, that it goes on from."""
        if self._keep:
            return torch.arange(self._prompts.count) % self.starts
        assert self._losses is not None
        return int(self._losses().argmin())

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


def _spread(rows: Tensor, source: int | Tensor) -> None:
    """Set every row to that of `source`, or row k to row `source[k]`."""
    rows.copy_(rows[source].clone().expand_as(rows))
