"""Token batches: where each target stands, and that the stop is learned whatever pads."""

from __future__ import annotations

from dataclasses import fields

import torch

from sptune.data.batch import collate
from sptune.data.encoder import DialogueEncoder, TokenSequence, TurnSpan
from sptune.data.template import make_template
from tiny import DIALOGUES, EOS, byte_level_tokenizer


def encoder_of(tokenizer, **settings) -> DialogueEncoder:
    return DialogueEncoder(tokenizer, make_template("paper", tokenizer=tokenizer), **settings)


def test_targets_by_hand():
    """Context 11 12, response 21 22, context 13, response 23, in a batch with context 14, response 24; the stop is 9.

    Row 0 is 11 12 21 22 13 23: 21 is predicted at position 1, 22 at 2, the stop at 3, although 13 follows there.
    """
    first, second = DIALOGUES[:2]
    sequences = [
        TokenSequence(first, (11, 12, 21, 22, 13, 23), (TurnSpan(0, 2, 4, 5), TurnSpan(1, 5, 6, 3))),
        TokenSequence(second, (14, 24), (TurnSpan(1, 1, 2, 4),)),
    ]
    batch = collate(sequences, stop_id=9)
    assert batch.input_ids.tolist() == [[11, 12, 21, 22, 13, 23], [14, 24, 0, 0, 0, 0]]
    assert batch.lengths.tolist() == [6, 2]
    assert batch.target_ids.tolist() == [21, 22, 9, 23, 9, 24, 9]
    assert batch.target_position.tolist() == [1, 2, 3, 4, 5, 0, 1]
    assert batch.target_row.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert batch.target_example.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert batch.example_row.tolist() == [0, 0, 1]
    assert batch.context_length.tolist() == [2, 5, 1]
    assert batch.response_bytes.tolist() == [5, 3, 4]
    assert batch.turns == (0, 1, 1)
    assert [dialogue.id for dialogue in batch.dialogues] == ["sailor", "sailor", "baker"]
    assert (batch.examples, batch.tokens) == (3, 8)


def test_without_a_stop_only_the_response_is_learned():
    sequences = [TokenSequence(DIALOGUES[0], (11, 12, 21, 22), (TurnSpan(0, 2, 4, 5),))]
    batch = collate(sequences, stop_id=None)
    assert batch.target_ids.tolist() == [21, 22]
    assert batch.target_position.tolist() == [1, 2]


def test_the_stop_is_the_last_target_of_every_response_even_where_it_is_the_padding_token():
    tokenizer = byte_level_tokenizer(eos_token=EOS, pad_token=EOS)
    encoder = encoder_of(tokenizer)
    batch = collate([s for dialogue in DIALOGUES for s in encoder.encode(dialogue)], stop_id=encoder.stop_id)
    assert encoder.stop_id == tokenizer.pad_token_id
    for example in range(batch.examples):
        ids = batch.target_ids[batch.target_example == example].tolist()
        response = batch.dialogues[example].turns[batch.turns[example]].response
        assert ids == [*encoder.response_ids(response), encoder.stop_id]


def test_targets_are_the_tokens_that_follow_their_positions(tiny_tokenizer, dialogues):
    encoder = encoder_of(tiny_tokenizer)
    batch = collate([s for dialogue in dialogues for s in encoder.encode(dialogue)], stop_id=encoder.stop_id)
    inner = batch.target_ids != encoder.stop_id
    following = batch.input_ids[batch.target_row[inner], batch.target_position[inner] + 1]
    assert torch.equal(following, batch.target_ids[inner])
    assert (batch.target_position < batch.lengths[batch.target_row]).all()
    assert (batch.target_example.diff() >= 0).all()


def test_no_token_depends_on_the_batch(tiny_tokenizer, dialogues):
    encoder = encoder_of(tiny_tokenizer)
    sequences = [s for dialogue in dialogues for s in encoder.encode(dialogue)]
    together = collate(sequences, stop_id=encoder.stop_id)
    assert together.examples == 13
    apart = [collate([sequence], stop_id=encoder.stop_id) for sequence in sequences]
    for name in ("target_ids", "target_position", "context_length", "response_bytes", "lengths"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(batch, name) for batch in apart]))


def test_a_moved_batch_keeps_everything(tiny_tokenizer, dialogues):
    encoder = encoder_of(tiny_tokenizer)
    batch = collate(encoder.encode(dialogues[0]), stop_id=encoder.stop_id)
    moved = batch.to("meta", non_blocking=True)
    for field in fields(batch):
        value = getattr(moved, field.name)
        if isinstance(value, torch.Tensor):
            assert value.device.type == "meta"
            assert value.shape == getattr(batch, field.name).shape
        else:
            assert value == getattr(batch, field.name)
