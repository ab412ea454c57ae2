"""Keys and values of contexts that were run lately: the next turn of a conversation runs only what is new in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

if TYPE_CHECKING:
    from sptune.engine.prepared import Prepared
    from sptune.model.spt import SPTModel

LEAST = 32  # tokens that are worth taking up again; below, it is faster to run contexts side by side


Speaker: TypeAlias = "tuple[ref[SPTModel], int]"
"""An adapter, which can leave memory all the same, and a prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A prompt and a context: its tokens, and keys and values (1, heads, places, d) of each layer."""

    speaker: Speaker
    ids: tuple[int, ...]
    places: int
    layers: list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a context can be taken up: behind the first `places` of one that was kept, for each prompt that speaks."""

    kept: tuple[_Kept, ...]
    places: int

    def cache(self) -> Any:
        """A cache of its own of those places, a row for each prompt."""
        cache = DynamicCache()
        for number, layers in enumerate(zip(*(kept.layers for kept in self.kept), strict=True)):
            keys, values = (
                torch.cat([tensor[:, :, : self.places] for tensor in each]) for each in zip(*layers, strict=True)
            )
            cache.update(keys, values, number)
        return cache


class KeptContexts:
    """The contexts that were used last, of all adapters. What is taken up has the same adapter, prompt and tokens.

    Args:
        places: the most places that are kept; 0 keeps nothing.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._kept: list[_Kept] = []  # the least recently used first

    @property
    def taken(self) -> int:
        """Places that are kept."""
        return sum(kept.places for kept in self._kept)

    def beginning(self, prepared: Prepared) -> Beginning | None:
        """The longest beginning of a request that was run before by all who speak, short of its last token; None where it is not worth it."""
        found = [self._longest(_speaker(prepared, prompt), prepared.ids[:-1]) for prompt in prepared.speakers]
        tokens = min(common for common, _ in found)
        if tokens < LEAST:
            return None
        kept = tuple(one for _, one in found if one is not None)
        for one in kept:
            self._kept.remove(one)
            self._kept.append(one)
        return Beginning(kept, prepared.model.prompts.length + tokens)

    def _longest(self, speaker: Speaker, ids: tuple[int, ...]) -> tuple[int, _Kept | None]:
        """How many first tokens of `ids` a kept context of that speaker has, and which; the first of equals."""
        own = [(_common(kept.ids, ids), kept) for kept in self._kept if kept.speaker == speaker]
        return max(own, key=lambda one: one[0], default=(0, None))

    def keep(self, prepared: Prepared, cache: Any, *, prompt: int, row: int) -> None:
        """Keep a context that was run under `prompt` in that row of a cache, in place of those that it continues."""
        places = prepared.prompt_tokens
        if places > self._places or len(prepared.ids) <= LEAST:
            return
        speaker, ids = _speaker(prepared, prompt), prepared.ids
        self._kept = [kept for kept in self._kept if (kept.speaker, kept.ids) != (speaker, ids[: len(kept.ids)])]
        while self.taken + places > self._places:
            self._kept.pop(0)
        layers = [
            (layer.keys[row : row + 1, :, :places].clone(), layer.values[row : row + 1, :, :places].clone())
            for layer in cache.layers
        ]
        self._kept.append(_Kept(speaker, ids, places, layers))


def _speaker(prepared: Prepared, prompt: int) -> Speaker:
    return ref(prepared.model), prompt


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
