"""Replies that take turns, each with a cache of its own: for models whose caches cannot be put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sptune.engine.batch.prefill import Prefill, run_body

if TYPE_CHECKING:
    from sptune.model.backbone import Backbone


@dataclass(slots=True)
class _Row:
    """One reply: the model's own cache of it, or all its embeddings (1, T, D) where the model keeps none."""

    cache: Any
    embeddings: Tensor | None
    length: int
    need: int


class SingleRows:
    """Has the methods of `SlotRows`; every reply is run on its own (ALiBi, sliding windows, recurrent states).

    Args:
        backbone: the frozen model.
        slots: the most rows.
        places: the most places of all rows together.
    """

    together = False

    def __init__(self, backbone: Backbone, *, slots: int, places: int) -> None:
        self._backbone = backbone
        self._slots, self._places = slots, places
        self._rows: list[_Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    def fits(self, needs: Sequence[int]) -> bool:
        """Whether there is room for further rows of so many places."""
        taken = sum(row.need for row in self._rows) + sum(needs)
        return len(self) + len(needs) <= self._slots and taken <= self._places

    def add(self, prefill: Prefill, needs: Sequence[int]) -> None:
        """Append the row of `prefill`, which may come to need so many places."""
        [length], [need] = prefill.lengths, needs
        embeddings = prefill.embeddings if prefill.cache is None else None
        self._rows.append(_Row(prefill.cache, embeddings, length, need))

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Run one token of each row: states (R, H), which predict the next."""
        return torch.stack([self._step(row, token) for row, token in zip(self._rows, tokens, strict=True)])

    def _step(self, row: _Row, token: int) -> Tensor:
        new = self._backbone.embed(torch.tensor([[token]], device=self._backbone.device))
        position = torch.tensor([[row.length]], device=new.device)
        row.length += 1
        if row.embeddings is not None:
            row.embeddings = torch.cat([row.embeddings, new], dim=1)
            return self._backbone.hidden(row.embeddings)[0, -1]
        output = run_body(self._backbone, new, position=position, past_key_values=row.cache)
        row.cache = output.past_key_values
        state: Tensor = output.last_hidden_state[0, -1]
        return state
