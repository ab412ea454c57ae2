"""Packed batches of training dialogues, the same in every run with the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader

from sptune.data.batch import collate
from sptune.data.dialogue import Dialogue, data_hash
from sptune.data.encoder import TokenSequence
from sptune.data.packing import TokenBudgetSampler
from sptune.errors import DataError

if TYPE_CHECKING:
    from sptune.model.spt import SPTModel


class PackedLoader(DataLoader[TokenSequence]):
    """A data loader of packed batches that knows its epoch.

    Args:
        sequences: what to batch.
        model: whose prompt length counts towards the budget and whose stop token is learned.
        budget: tokens of a batch after padding.
        seed: of the order.
        shuffle: False keeps the order by length.
    """

    def __init__(
        self,
        sequences: Sequence[TokenSequence],
        *,
        model: SPTModel,
        budget: int,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        lengths = [len(sequence.input_ids) + model.prompts.length for sequence in sequences]
        sampler = TokenBudgetSampler(lengths, budget=budget, seed=seed, shuffle=shuffle)
        stop = model.encoder.stop_id
        super().__init__(
            list(sequences),  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=lambda part: {"batch": collate(part, stop_id=stop)},
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def encode_all(model: SPTModel, dialogues: Sequence[Dialogue], *, key: str = "data.train") -> list[TokenSequence]:
    """The token sequences of all training dialogues, or of those that the recipe's `key` names.

    Raises:
        DataError: no dialogue has a response, or one does not fit the base model's window.
    """
    sequences = [sequence for dialogue in dialogues for sequence in model.encoder.encode(dialogue)]
    if not sequences:
        raise DataError(f"{key}: the dialogues hold no response to learn from or to measure; give others")
    return sequences


def encode_data(model: SPTModel, train: Sequence[Dialogue], validation: Sequence[Dialogue]) -> list[TokenSequence]:
    """The token sequences of the training dialogues, once those of validation are known to be good: that must not show at the first checkpoint.

    Raises:
        DataError: see `encode_all`.
    """
    sequences = encode_all(model, train)
    if validation:
        encode_all(model, validation, key="data.validation")
    return sequences


def data_digest(sequences: Sequence[TokenSequence], validation: Sequence[Dialogue]) -> str:
    """SHA-256, in hex, of what a run depends on beside its settings: the tokens that it learns from, and what was said in validation."""
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(repr((sequence.input_ids, sequence.spans)).encode())
    digest.update(data_hash(validation).encode())
    return digest.hexdigest()
