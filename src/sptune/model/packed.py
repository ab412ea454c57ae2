"""Streams behind contexts that are run once: no reply copies its context, and ended ones cost nothing.

All streams behind beginnings of one run of `[SP_k; tokens]` stand in one row of the batch: the replies to all turns of a dialogue under one
prompt. A block mask lets each see its own context and itself alone, and its positions go on where its context ends. For models whose way
(`prefix.find_way`) is `packed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sptune.model.prefix import Prefix, Prefixes
    from sptune.model.spt import SPTModel
    from sptune.model.streams import Speech, Stream

_NOBODY = -1  # the owner of a place that only fills a row
_WIDTH = 32  # the most streams of a row: each of them looks at the tokens of all


@torch.no_grad()
def generate_packed(model: SPTModel, prefixes: Prefixes, speech: Speech) -> list[list[int]]:
    """The tokens of all streams of `speech`.

    Args:
        model: the model.
        prefixes: with every context and prompt that a stream needs.
        speech: the streams.

    Returns:
        One list of token ids a stream, without the token that ended it.
    """
    batch = _Batch(model, prefixes, speech.streams)
    states = batch.first_states()
    while True:
        tokens = speech.step(model.backbone.head(states), stream=batch.stream, weight=batch.weight)
        if not speech.going:
            return speech.replies
        states = batch.advance(tokens)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A stream under one prompt of its mixture; it has as many as prompts with a weight."""

    run: Prefix
    places: int  # of the run that are its context, virtual tokens included
    stream: int
    weight: float


def _rows(prefixes: Prefixes, streams: Sequence[Stream]) -> list[list[_Entry]]:
    """The entries behind each run, at most `_WIDTH` of them in a row."""
    behind: dict[int, list[_Entry]] = {}
    for number, stream in enumerate(streams):
        for prompt, weight in enumerate(stream.weights):
            if weight > 0:
                run = prefixes.run(stream.context, prompt)
                entry = _Entry(run, prefixes.places(stream.context), number, weight)
                behind.setdefault(id(run), []).append(entry)
    return [entries[n : n + _WIDTH] for entries in behind.values() for n in range(0, len(entries), _WIDTH)]


class _Batch:
    """The rows of a generation, their cache, and the entries that still go on."""

    def __init__(self, model: SPTModel, prefixes: Prefixes, streams: Sequence[Stream]) -> None:
        self.backbone = model.backbone
        device = self.backbone.device
        rows = _rows(prefixes, streams)
        entries = [entry for row in rows for entry in row]
        self.row = torch.tensor([number for number, row in enumerate(rows) for _ in row], device=device)  # (E,)
        self.stream = torch.tensor([entry.stream for entry in entries], device=device)  # (E,)
        self.weight = torch.tensor([entry.weight for entry in entries], device=device)  # (E,)
        self.context = torch.tensor([entry.places for entry in entries], device=device)  # (E,) places of its context
        self.step = 0
        lengths = [max(entry.places for entry in row) for row in rows]
        self.cache = _stacked([row[0].run.cache for row in rows], lengths)
        self.place = torch.arange(max(lengths), device=device)  # (P0,) of the contexts
        self.owner = self.row.new_empty(len(rows), 0)  # (R, P1) the stream of every place behind them
        self._first = torch.stack([entry.run.states[entry.places - 1] for entry in entries])  # (E, H)

    def first_states(self) -> Tensor:
        """(E, H) the state that predicts each entry's first token."""
        return self._first

    def advance(self, tokens: Mapping[int, int]) -> Tensor:
        """Run one token of each stream in `tokens` and drop the others: states (E, H) of the entries that are left."""
        self._keep(torch.tensor(sorted(tokens), device=self.row.device))
        count = torch.bincount(self.row, minlength=len(self.owner))  # (R,)
        slot = torch.arange(len(self.row), device=self.row.device) - (count.cumsum(0) - count)[self.row]  # (E,)
        shape = (len(self.owner), int(count.max()))  # R, Q
        ids, context, owner = self.row.new_zeros(shape), self.row.new_ones(shape), self.row.new_full(shape, _NOBODY)
        ids[self.row, slot] = self.row.new_tensor([tokens[number] for number in self.stream.tolist()])
        context[self.row, slot] = self.context
        owner[self.row, slot] = self.stream
        self.owner = torch.cat([self.owner, owner], dim=1)  # (R, P1 + Q)
        seen = torch.cat(
            [self.place < context[:, :, None], self.owner[:, None] == owner[:, :, None]], dim=2
        )  # (R, Q, P0 + P1 + Q)
        mask = torch.zeros(seen.shape, dtype=self.backbone.dtype, device=seen.device)
        output = self.backbone.body(
            inputs_embeds=self.backbone.embed(ids),
            position_ids=context + self.step,
            attention_mask=mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)[:, None],
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
        )
        self.step += 1
        states: Tensor = output.last_hidden_state[self.row, slot]
        return states

    def _keep(self, streams: Tensor) -> None:
        """Drop the entries of all other streams, and rows that nobody reads once they are a quarter of all."""
        kept = torch.isin(self.stream, streams)
        self.stream, self.row = self.stream[kept], self.row[kept]
        self.weight, self.context = self.weight[kept], self.context[kept]
        rows: Tensor = self.row.unique()  # type: ignore[no-untyped-call]
        if 4 * len(rows) <= 3 * len(self.owner):
            self.row = torch.searchsorted(rows, self.row)
            self.owner = self.owner[rows]
            self.cache.batch_select_indices(rows)


def _stacked(caches: Sequence[Any], lengths: Sequence[int]) -> Any:
    """One cache with a row for each of `caches`: its first `lengths` places, and zeros that nobody sees."""
    from transformers.cache_utils import DynamicCache

    stacked = DynamicCache()
    for number, layer in enumerate(caches[0].layers):
        _, heads, _, width = layer.keys.shape
        keys = layer.keys.new_zeros(len(caches), heads, max(lengths), width)
        values = layer.values.new_zeros(len(caches), heads, max(lengths), layer.values.shape[-1])
        for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
            keys[row, :, :length] = cache.layers[number].keys[0, :, :length]
            values[row, :, :length] = cache.layers[number].values[0, :, :length]
        stacked.update(keys, values, number)
    return stacked
