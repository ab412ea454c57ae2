"""Drawing from a seed without a trace in torch's global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from `seed`, and leave torch's own random state as it was; None draws from that state."""
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(cuda, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
