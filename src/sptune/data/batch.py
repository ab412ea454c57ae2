"""A batch of token sequences, padded on the right, with every response token's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sptune.data.dialogue import Dialogue
from sptune.data.encoder import TokenSequence


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """B sequences holding n examples (turns) and N response tokens. Targets are ordered by example, then by position.

    Attributes:
        input_ids: (B, T) token ids, padded on the right.
        lengths: (B,) tokens of each sequence.
        target_row: (N,) the sequence of each target.
        target_position: (N,) the token position whose next-token distribution predicts the target.
        target_ids: (N,) the target token: a response token or the stop token.
        target_example: (N,) the example of each target, 0 .. n-1, ascending.
        example_row: (n,) the sequence of each example.
        context_length: (n,) tokens of each example's context, counted from the start of its sequence.
        response_bytes: (n,) UTF-8 bytes of each response.
        dialogues: n dialogues, each example's own.
        turns: n turn numbers.
    """

    input_ids: Tensor
    lengths: Tensor
    target_row: Tensor
    target_position: Tensor
    target_ids: Tensor
    target_example: Tensor
    example_row: Tensor
    context_length: Tensor
    response_bytes: Tensor
    dialogues: tuple[Dialogue, ...]
    turns: tuple[int, ...]

    @property
    def examples(self) -> int:
        """n: how many turns are in the batch."""
        return len(self.turns)

    @property
    def tokens(self) -> int:
        """Real tokens, without padding and virtual tokens."""
        return int(self.lengths.sum())

    def to(self, device: torch.device | str, **_: object) -> TokenBatch:
        """The batch with its tensors on `device`."""
        moved: dict[str, Any] = {
            f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def collate(sequences: Sequence[TokenSequence], *, stop_id: int | None) -> TokenBatch:
    """Pad `sequences` into one batch.

    Each response of tokens r_1 .. r_m in positions s .. s+m-1 gives the targets r_1 .. r_m and the stop token, predicted at positions
    s-1 .. s+m-1 (second identity of docs/method.md: what follows in the sequence does not matter).

    Args:
        sequences: at least one, each with at least one span.
        stop_id: the stop token, or None where no stop is learned.
    """
    width = max(len(sequence.input_ids) for sequence in sequences)
    input_ids = torch.zeros(len(sequences), width, dtype=torch.long)
    rows: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    examples: list[int] = []
    spans = [(row, sequence, span) for row, sequence in enumerate(sequences) for span in sequence.spans]
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence.input_ids)] = torch.tensor(sequence.input_ids)
    for example, (row, sequence, span) in enumerate(spans):
        ids = list(sequence.input_ids[span.context_length : span.response_end])
        ids += [] if stop_id is None else [stop_id]
        rows += [row] * len(ids)
        positions += range(span.context_length - 1, span.context_length - 1 + len(ids))
        targets += ids
        examples += [example] * len(ids)
    return TokenBatch(
        input_ids=input_ids,
        lengths=torch.tensor([len(sequence.input_ids) for sequence in sequences]),
        target_row=torch.tensor(rows),
        target_position=torch.tensor(positions),
        target_ids=torch.tensor(targets),
        target_example=torch.tensor(examples),
        example_row=torch.tensor([row for row, _, _ in spans]),
        context_length=torch.tensor([span.context_length for _, _, span in spans]),
        response_bytes=torch.tensor([span.response_bytes for _, _, span in spans]),
        dialogues=tuple(sequence.dialogue for _, sequence, _ in spans),
        turns=tuple(span.turn for _, _, span in spans),
    )
