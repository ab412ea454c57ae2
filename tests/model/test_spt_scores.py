"""Scores by everything the retriever can read: the same in training and at inference, in every batch, whatever is said later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sptune.evaluation.turns import choose_prompts
from sptune.model.load import LoadedBase
from sptune.model.retriever import Reading, Retriever
from sptune.model.spt import SPTModel
from tiny import DIALOGUES, packed, tiny_spt

READINGS = {
    "mean": Reading(),
    "whitened": Reading(rank=6),
    "recent": Reading("recent", half_life=16),
    "hidden": Reading("hidden"),
    "hidden, whitened": Reading("hidden", rank=6),
}
CONTEXTS = [dialogue.context(n) for dialogue in DIALOGUES for n in range(len(dialogue.turns))]
TOLERANCE = 1e-4  # hidden states are as exact as the base model's kernels


def reader(base: LoadedBase, reading: Reading, *, kind: str = "linear") -> SPTModel:
    """A model whose retriever reads in that way and has keys, a centre and a whitener of random numbers."""
    dim = base.backbone.hidden_dim if reading.input == "hidden" else base.backbone.embedding_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        retriever = Retriever(kind, dim=dim, hidden=8, reading=reading, keys=3, activation="none")
        for buffer in retriever.buffers():
            buffer.copy_(torch.randn(buffer.shape))
    return tiny_spt(base, retriever=retriever)


@pytest.fixture(params=READINGS)
def model(tiny_base: LoadedBase, request: pytest.FixtureRequest) -> SPTModel:
    return reader(tiny_base, READINGS[request.param])


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


def test_training_evaluation_and_inference_choose_alike(model: SPTModel):
    """Turns packed in one sequence, turns of an evaluation, and contexts given as they are to be answered."""
    with torch.no_grad():
        training = model(packed(model)).scores
    inference = model.scores(CONTEXTS)
    assert inference.std(0).min() > 10 * TOLERANCE  # contexts do differ
    close(inference, training)
    turns = choose_prompts(model, DIALOGUES)
    close(torch.tensor([turn.selection.scores for turn in turns]), inference)
    assert [turn.selection.prompt for turn in turns] == inference.argmax(1).tolist()


def test_neither_batch_nor_padding_matters(model: SPTModel):
    together = model.scores(CONTEXTS)
    close(torch.cat([model.scores([context]) for context in CONTEXTS]), together)
    order = torch.randperm(len(CONTEXTS), generator=torch.Generator().manual_seed(0))
    close(model.scores([CONTEXTS[i] for i in order]), together[order])
    batch = packed(model)
    padded = replace(batch, input_ids=torch.nn.functional.pad(batch.input_ids, (0, 30), value=7))
    with torch.no_grad():
        close(model(padded).scores, model(batch).scores)


def test_what_is_said_later_does_not_matter(model: SPTModel):
    first, *others = DIALOGUES[0].turns
    with torch.no_grad():
        before = model(packed(model, DIALOGUES[:1])).scores
        for later in (
            [replace(first, response="quite another thing"), *others],
            [first, *(replace(turn, user="and now ?", response="no .") for turn in others)],
        ):
            talk = replace(DIALOGUES[0], turns=tuple(later))
            assert talk != DIALOGUES[0]
            close(model(packed(model, (talk,))).scores[:1], before[:1])
            assert (model(packed(model, (talk,))).scores[-1] - before[-1]).abs().max() > 10 * TOLERANCE


def test_the_prompts_do_not_change_scores_by_keys(model: SPTModel):
    before = model.scores(CONTEXTS)
    with torch.no_grad():
        model.prompts.embeddings.add_(1)
    assert torch.equal(model.scores(CONTEXTS), before)


def test_hidden_states_are_those_of_the_bare_model_on_every_architecture(any_base: LoadedBase):
    model = reader(any_base, Reading("hidden"), kind="identity")
    ids = [model.encoder.encode_context(context).input_ids for context in CONTEXTS[:5]]
    with torch.no_grad():
        outputs = [any_base.backbone.model(torch.tensor([row]), output_hidden_states=True) for row in ids]
        last = torch.stack([output.hidden_states[-1][0, -1] for output in outputs])
        retriever = model.retriever
        assert retriever.keys is not None
        wanted = retriever.score(last - retriever.centre, retriever.keys)
    assert wanted.std(0).min() > 10 * TOLERANCE
    close(model.scores(CONTEXTS[:5]), wanted)


def test_reading_hidden_states_leaves_the_gradients_of_the_prompts_alone(tiny_base: LoadedBase):
    """The bare model is read without a graph: gradients of the language model's losses are those of a retriever that reads means."""
    gradients = []
    for reading in (Reading(), Reading("hidden")):
        model = reader(tiny_base, reading)
        model(packed(model)).target_logprobs.mean().backward()
        gradients.append(model.prompts.embeddings.grad)
    assert torch.equal(gradients[0], gradients[1])


def test_generation_follows_the_scores(model: SPTModel):
    contexts = [dialogue.context(0) for dialogue in DIALOGUES]
    replies = model.generate(contexts)
    assert [reply.selection.prompt for reply in replies] == model.scores(contexts).argmax(1).tolist()
