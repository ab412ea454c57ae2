"""The published way to the same numbers: one sequence per turn and prompt at a time, with logits of every token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sptune.data.dialogue import Dialogue
from sptune.data.encoder import TokenSequence, TurnSpan
from sptune.model.spt import SPTModel


def one_sequence_per_turn(model: SPTModel, dialogues: Sequence[Dialogue]) -> list[TokenSequence]:
    """Every turn's context and response as a sequence of its own."""
    sequences = []
    for dialogue in dialogues:
        for n, turn in enumerate(dialogue.turns):
            context = model.encoder.encode_context(dialogue.context(n)).input_ids
            ids = context + model.encoder.response_ids(turn.response or "")
            span = TurnSpan(n, len(context), len(ids), len((turn.response or "").encode()))
            sequences.append(TokenSequence(dialogue, ids, (span,)))
    return sequences


def naive_logits(model: SPTModel, sequence: TokenSequence, prompt: int) -> Tensor:
    """(m, V) logits at the positions that predict the response's tokens and the stop."""
    tokens = model.backbone.model.get_input_embeddings()(torch.tensor(sequence.input_ids))
    inputs = torch.cat([model.prompts.embeddings[prompt].to(tokens.dtype), tokens])[None]
    mask = torch.ones(inputs.shape[:2], dtype=torch.long)
    logits = model.backbone.model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits[0].float()
    first = model.prompts.length + sequence.spans[0].context_length - 1
    return logits[first : len(logits) if model.encoder.stop_id is not None else -1]


def targets_of(model: SPTModel, sequence: TokenSequence) -> Tensor:
    """(m,) the response's tokens and the stop."""
    stop = [] if model.encoder.stop_id is None else [model.encoder.stop_id]
    return torch.tensor([*sequence.input_ids[sequence.spans[0].context_length :], *stop])


def naive_target_logprobs(model: SPTModel, dialogues: Sequence[Dialogue]) -> Tensor:
    """(K, N) what `SPTModel.forward` computes of the dialogues' turns, in their order."""
    sequences = one_sequence_per_turn(model, dialogues)
    rows = []
    for k in range(model.prompts.count):
        each = [
            naive_logits(model, sequence, k).log_softmax(-1).gather(1, targets_of(model, sequence)[:, None])[:, 0]
            for sequence in sequences
        ]
        rows.append(torch.cat(each))
    return torch.stack(rows)
