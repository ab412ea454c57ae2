"""Prompts and contexts on their way into a batch: run a part at a time, so that replies under way hardly wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from sptune.engine.batch.kept_contexts import Beginning
    from sptune.model.backbone import Backbone


class Prefill:
    """Runs several `[prompt; context]` side by side, padded on the right: the model is causal, so none sees its padding.

    Args:
        backbone: the frozen model.
        sequences: n embeddings (T, D), virtual tokens included. A model whose cache is more than keys and values takes one.
        beginning: of one context under each prompt that speaks, a part that need not be run again.

    Attributes:
        lengths: n lengths T.
        embeddings: (n, T, D) padded.
        cache: keys and values of what was run, or None where the model keeps none.
    """

    def __init__(self, backbone: Backbone, sequences: Sequence[Tensor], *, beginning: Beginning | None = None) -> None:
        self.lengths = [len(sequence) for sequence in sequences]
        self.embeddings = pad_sequence(list(sequences), batch_first=True)
        self.cache: Any = beginning.cache() if beginning else None
        self._backbone = backbone
        self._last: dict[int, Tensor] = {}
        self._done = beginning.places if beginning else 0

    @property
    def finished(self) -> bool:
        """Whether everything was run."""
        return len(self._last) == len(self.lengths)

    def states(self) -> Tensor:
        """(n, H) last hidden states, which predict each reply's first token."""
        return torch.stack([self._last[row] for row in range(len(self.lengths))])

    def run(self, tokens: int) -> None:
        """Run the next part: about so many tokens in all."""
        start, end = self._done, self._done + max(1, tokens // len(self.lengths))
        states = self._run(start, end)
        for row, length in enumerate(self.lengths):
            if start < length <= start + states.shape[1]:
                self._last[row] = states[row, length - 1 - start]
        self._done = start + states.shape[1]

    def _run(self, start: int, end: int) -> Tensor:
        """States (n, T, H) of the places from `start` up to `end`; of all places where the model keeps no cache."""
        part = self.embeddings[:, start:end]
        position = torch.arange(start, start + part.shape[1], device=part.device)[None]
        output = run_body(self._backbone, part, position=position, past_key_values=self.cache)
        self.cache = getattr(output, "past_key_values", None)
        if self.cache is None:
            return self._backbone.hidden(self.embeddings)
        states: Tensor = output.last_hidden_state
        return states


def run_body(backbone: Backbone, embeddings: Tensor, *, position: Tensor, **arguments: Any) -> Any:
    """The body's output, cache included, on embeddings (B, T, D) at `position` (B or 1, T)."""
    if backbone.takes_position_ids:
        arguments["position_ids"] = position
    return backbone.body(inputs_embeds=embeddings, use_cache=True, return_dict=True, **arguments)
