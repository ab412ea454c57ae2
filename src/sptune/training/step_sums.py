"""Sums over the batches since the last line of the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from sptune.data.batch import TokenBatch
from sptune.training.objective import LossParts

PARTS = ("llm", "selection", "contrastive", "fusion", "balance")


class StepSums:
    """What a line of the log says about the losses: means over batches, and how much was seen."""

    def __init__(self) -> None:
        self.batches = 0
        self._losses: dict[str, float] = defaultdict(float)
        self._seen: Counter[str] = Counter()

    def add(self, parts: LossParts, batch: TokenBatch) -> None:
        """Count a batch."""
        self.batches += 1
        for name in ("total", *PARTS):
            self._losses[name] += float(getattr(parts, name).detach())
        self._seen.update(tokens=batch.tokens, examples=batch.examples)

    def take(self) -> dict[str, Any]:
        """Mean `total` and parts of the loss a batch, tokens and examples in all; then it begins anew."""
        figures = {name: total / self.batches for name, total in self._losses.items()} | dict(self._seen)
        self.clear()
        return figures

    def state(self) -> dict[str, Any]:
        """All of it as JSON, for a checkpoint between two lines."""
        return {"batches": self.batches, "losses": dict(self._losses), "seen": dict(self._seen)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; nothing from an empty one."""
        self.clear()
        self.batches = state.get("batches", 0)
        self._losses.update(state.get("losses", {}))
        self._seen.update(state.get("seen", {}))

    def clear(self) -> None:
        """Forget all."""
        self.batches = 0
        self._losses.clear()
        self._seen.clear()
