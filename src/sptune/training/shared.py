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

    With S starts, prompt k is start k mod S until then: only the first S prompts are run, each on all examples, and their gradients, already
    clipped, are given to all rows, so that prompts and optimizer states stay equal. Training is, step for step, that of S prompts; with one start
    that of K = 1. Then each prompt goes on from its start, where all starts are kept; or all from the start with the lowest loss.

    Every loss is a mean over the prompts that are run, so a prompt's gradient is a share of what it would have alone, and after the parting a
    smaller one than its optimizer state has seen. Clipped with all others already, it is given back its size and clipped again, prompt by
    prompt, so that steps stay about as long as those of one prompt alone.

    Nothing but the step and the prompts says where training stands, so a resumed run does the same. At least the last step is taken apart. A
    single prompt is left alone.

    Args:
        prompts: the prompts; with `share` > 0 each is set to its start.
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
        self._keep = keep or starts == 1
        self._losses = losses
        self._parted = parted
        self._start = torch.arange(prompts.count) % starts  # (K,) the start that each prompt is
        if share > 0:
            _spread(prompts.embeddings.data, self._start)

    def together(self, state: Any) -> bool:
        """Whether the next step still comes before the parting."""
        return int(state.global_step) < self._fork(state)

    def have_parted(self, state: Any) -> bool:
        """Whether a step has trained the prompts apart. A single prompt, or prompts that are not shared, have nothing to wait for."""
        return self._share == 0 or self._prompts.count == 1 or int(state.global_step) > self._fork(state)

    def progress_apart(self, state: Any) -> float:
        """Share of the steps after the parting that are done, 0..1."""
        fork = self._fork(state)
        return max(0.0, (int(state.global_step) - fork) / max(1, int(state.max_steps) - fork))

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Part the prompts before the first step that trains them apart."""
        if self._share == 0 or int(state.global_step) != self._fork(state):
            return
        prompts = self._prompts.embeddings
        if not torch.equal(prompts, prompts[self._start]):
            return  # a step that is tried again
        if not self._keep:
            assert self._losses is not None
            best = int(self._losses().argmin())
            for tensor in (prompts.data, *_moments(optimizer, prompts)):
                _spread(tensor, torch.full_like(self._start, best))
        self._part()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give each prompt the gradient of its start, or its own, at the size that it would have alone."""
        if self._share == 0 or self._prompts.count == 1:
            return
        gradient = self._prompts.embeddings.grad
        if gradient is None:
            return
        together = self.together(state)
        run = self.starts if together else len(gradient)
        if run > 1:
            gradient.mul_(run)
            _clip_each(gradient, float(args.max_grad_norm or 0))
        if together:
            _spread(gradient, self._start)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep them equal to the last bit: vectorised arithmetic may round the ends of a tensor otherwise than its middle."""
        if self.together(state):
            _spread(self._prompts.embeddings.data, self._start)

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
    """What the optimizer keeps of each prompt, as rows; of every number (Adam), or factored, (K, L) and (K, D) (Adafactor)."""
    kept = {} if optimizer is None else getattr(optimizer, "optimizer", optimizer).state.get(prompts, {})
    return [
        value for value in kept.values() if isinstance(value, Tensor) and value.dim() and len(value) == len(prompts)
    ]


def _clip_each(rows: Tensor, most: float) -> None:
    """Scale every row down to a norm of `most`, which 0 leaves as it is."""
    if most > 0:
        norms = rows.flatten(1).norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
        rows.mul_((most / norms).clamp(max=1.0)[:, None, None])


def _spread(rows: Tensor, source: Tensor) -> None:
    """Set row k to row `source[k]`, for every k."""
    rows.copy_(rows[source])
