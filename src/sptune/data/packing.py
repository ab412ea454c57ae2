"""Batches by token budget: similar lengths together, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from torch.utils.data import Sampler


class TokenBudgetSampler(Sampler[list[int]]):
    """Yields batches of sequence indices, each of at most `budget` tokens after padding (a longer sequence is alone).

    Sequences are sorted by length and cut into buckets. Within a bucket every batch has the same size, so that the number of batches is
    the same in every epoch; which sequences meet, and in which order batches come, is drawn anew each epoch from (seed, epoch).

    Args:
        lengths: tokens of each sequence, virtual tokens included.
        budget: the most tokens (B x T) of a batch; each prompt runs that many.
        seed: of the order.
        shuffle: False keeps the order by length, for evaluation.
        buckets: how many groups of similar length.
    """

    def __init__(
        self, lengths: Sequence[int], *, budget: int, seed: int = 0, shuffle: bool = True, buckets: int = 8
    ) -> None:
        order = np.argsort(np.asarray(lengths), kind="stable")
        parts = [part for part in np.array_split(order, buckets) if len(part)]
        self._buckets = [(part, max(1, budget // int(lengths[part[-1]]))) for part in parts]
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(-(-len(part) // size) for part, size in self._buckets)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self._seed, self._epoch])
        batches = list(chain.from_iterable(self._batches(random)))
        yield from (batches[i] for i in (random.permutation(len(batches)) if self._shuffle else range(len(batches))))

    def _batches(self, random: np.random.Generator) -> Iterator[list[list[int]]]:
        for part, size in self._buckets:
            members = random.permutation(part) if self._shuffle else part
            yield [members[i : i + size].tolist() for i in range(0, len(members), size)]
