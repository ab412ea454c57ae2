"""All K prompts and turns in one forward pass: the same numbers as one at a time, gradients only where they belong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from naive import naive_logits, naive_target_logprobs, one_sequence_per_turn, targets_of
from torch import Tensor

from sptune.data.batch import TokenBatch, collate
from sptune.data.dialogue import Dialogue, Turn
from sptune.errors import DataError, ModelError
from sptune.losses import contrastive_loss, example_nll, fusion_loss, llm_loss, responsibility_weights, selection_loss
from sptune.model.backbone import Backbone
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel, SPTOutput
from tiny import (
    CHAT_TEMPLATE,
    DIALOGUES,
    EOS,
    JINJA_TEMPLATE,
    MARKING_CHAT_TEMPLATE,
    PAD,
    Largest,
    byte_level_tokenizer,
    dummy_prefix_tokenizer,
    packed,
    tiny_llama,
    tiny_spt,
)

KINDS = ("linear", "mlp", "transformer", "identity")


def unpacked(model: SPTModel, dialogues: tuple[Dialogue, ...] = DIALOGUES) -> TokenBatch:
    return collate(one_sequence_per_turn(model, dialogues), stop_id=model.encoder.stop_id)


def total_loss(output: SPTOutput, batch: TokenBatch) -> Tensor:
    """Every loss, each with a part in the gradients of prompts and retriever."""
    n, example = batch.examples, batch.target_example
    nll = example_nll(output.target_logprobs, example=example, examples=n)
    similarity = torch.rand(n, n, generator=torch.Generator().manual_seed(0))
    weights = responsibility_weights(nll, temperature=0.5)
    total = llm_loss(output.target_logprobs) + llm_loss(output.target_logprobs, weights=weights, example=example)
    total = total + fusion_loss(output.target_logprobs) + selection_loss(output.scores, nll)
    total = total + contrastive_loss(output.scores, similarity=similarity, threshold=0.5)
    return total if output.fused_logprobs is None else total - output.fused_logprobs.mean()


def gradients(model: SPTModel, batch: TokenBatch, **options: bool) -> dict[str, Tensor]:
    model.zero_grad()
    total_loss(model(batch, **options), batch).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def base_with(chat_template: str, **settings: Any) -> LoadedBase:
    tokenizer = byte_level_tokenizer(eos_token=EOS, pad_token=PAD)
    tokenizer.chat_template = chat_template
    return LoadedBase(Backbone(tiny_llama(len(tokenizer), **settings), base="tiny"), tokenizer)


def make_case(name: str, retriever: str = "linear") -> SPTModel:
    """A model whose turns are packed in the way of `name`."""
    if name == "metaspace":
        tokenizer = dummy_prefix_tokenizer()
        return tiny_spt(LoadedBase(Backbone(tiny_llama(len(tokenizer)), base="tiny"), tokenizer), retriever=retriever)
    base = base_with(
        MARKING_CHAT_TEMPLATE if name == "marking" else CHAT_TEMPLATE, window=180 if name == "window" else 1024
    )
    template = {"chat": "chat", "marking": "chat", "jinja": "jinja"}.get(name, "paper")
    source = JINJA_TEMPLATE if name == "jinja" else None
    settings = {
        "max_length": {"max_length": 160, "reserve": 40},
        "window": {"reserve": 40},
        "no stop": {"learn_stop": False},
    }
    return tiny_spt(base, template, source=source, retriever=retriever, **settings.get(name, {}))


# (case, sequences that hold the 13 turns of the 4 dialogues)
CASES = {"paper": 4, "chat": 4, "jinja": 4, "metaspace": 4, "no stop": 4, "marking": 13, "max_length": 9, "window": 9}


@pytest.mark.parametrize("retriever", ["linear", "transformer"])
@pytest.mark.parametrize("case", CASES)
def test_packed_turns_equal_one_sequence_per_turn(case: str, retriever: str):
    model = make_case(case, retriever)
    together, apart = packed(model), unpacked(model)
    assert together.examples == apart.examples == 13
    assert len(apart.lengths) == 13
    if case in ("max_length", "window"):
        assert 4 < len(together.lengths) < 13
    else:
        assert len(together.lengths) == CASES[case]
    assert torch.equal(together.target_ids, apart.target_ids)
    one, other = model(together, fuse_logits=True), model(apart, fuse_logits=True)
    torch.testing.assert_close(one.target_logprobs, other.target_logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.fused_logprobs, other.fused_logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-6, rtol=0)
    ours, theirs = gradients(model, together, fuse_logits=True), gradients(model, apart, fuse_logits=True)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert gradient.abs().max() > 0 or name.endswith("bias")
        torch.testing.assert_close(
            gradient, theirs[name], atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_every_architecture_gives_the_naive_numbers(any_base: LoadedBase):
    model = tiny_spt(any_base)
    batch = packed(model)
    assert (batch.lengths < batch.input_ids.shape[1]).any()  # so there is padding on the right
    with torch.no_grad():
        wanted = naive_target_logprobs(model, DIALOGUES)
        output = model(batch)
    assert wanted.std() > 0.5
    assert (wanted[0] - wanted[1]).abs().max() > 0.01  # the prompts matter
    torch.testing.assert_close(output.target_logprobs, wanted, atol=1e-4, rtol=1e-4)


def test_every_architecture_gives_the_naive_gradients(any_base: LoadedBase):
    model, dialogues = tiny_spt(any_base), DIALOGUES[:2]
    model(packed(model, dialogues)).target_logprobs.mean().backward()
    ours = model.prompts.embeddings.grad.clone()
    model.zero_grad()
    naive_target_logprobs(model, dialogues).mean().backward()
    torch.testing.assert_close(ours, model.prompts.embeddings.grad, atol=1e-5, rtol=1e-3)
    assert ours.abs().max() > 1e-3


def test_padding_and_batch_do_not_matter(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    with torch.no_grad():
        together = model(packed(model))
        each = [model(packed(model, (dialogue,))) for dialogue in DIALOGUES]
        batch = packed(model)
        longer = replace(batch, input_ids=torch.nn.functional.pad(batch.input_ids, (0, 30), value=7))
        padded = model(longer)
    torch.testing.assert_close(
        together.target_logprobs, torch.cat([o.target_logprobs for o in each], 1), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(together.scores, torch.cat([o.scores for o in each]), atol=1e-6, rtol=0)
    torch.testing.assert_close(padded.target_logprobs, together.target_logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded.scores, together.scores, atol=1e-6, rtol=0)


def test_prompts_do_not_see_each_other(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    with torch.no_grad():
        before = model(packed(model)).target_logprobs
        model.prompts.embeddings[1] += 1
        after = model(packed(model)).target_logprobs
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], atol=1e-6, rtol=0)
    assert not torch.allclose(after[1], before[1], atol=1e-2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_first_prompts_alone_are_their_rows_of_all(tiny_model: Callable[..., SPTModel], count: int):
    """With the scores of all, and a gradient for themselves alone."""
    model = tiny_model()
    batch = packed(model)
    every, alone = model(batch), model(batch, first=count)
    assert alone.target_logprobs.shape == (count, len(batch.target_ids))
    torch.testing.assert_close(alone.target_logprobs, every.target_logprobs[:count], atol=1e-5, rtol=0)
    assert torch.equal(alone.scores, every.scores)
    assert model(batch, first=count, fuse_logits=True).fused_logprobs is None
    alone.target_logprobs.mean().backward()
    gradient = model.prompts.embeddings.grad
    assert gradient is not None
    assert [bool(row.any()) for row in gradient] == [True] * count + [False] * (3 - count)


def test_score_weighted_logits_are_the_naive_sum(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    output = model(packed(model, DIALOGUES[:2]), fuse_logits=True)
    wanted = []
    for scores, sequence in zip(output.scores, one_sequence_per_turn(model, DIALOGUES[:2]), strict=True):
        logits = sum(scores[k] * naive_logits(model, sequence, k) for k in range(3))
        wanted.append(logits.log_softmax(-1).gather(1, targets_of(model, sequence)[:, None])[:, 0])
    torch.testing.assert_close(output.fused_logprobs, torch.cat(wanted), atol=1e-4, rtol=1e-4)
    assert model(packed(model)).fused_logprobs is None


# What is trained.


@pytest.mark.parametrize("kind", KINDS)
def test_only_prompts_and_retriever_are_trained(tiny_model: Callable[..., SPTModel], kind: str):
    model = tiny_model(retriever=kind)
    trained = gradients(model, packed(model), fuse_logits=True)
    wanted = {"prompts.embeddings", *(f"retriever.{name}" for name, _ in model.retriever.named_parameters())}
    assert trained.keys() == wanted
    assert all(torch.isfinite(gradient).all() for gradient in trained.values())
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == wanted
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@pytest.mark.parametrize("count", [1, 3])
def test_the_retriever_of_a_single_prompt_does_not_count_as_trained(tiny_model: Callable[..., SPTModel], count: int):
    model = tiny_model(count=count)
    chooses = sum(p.numel() for p in model.retriever.parameters()) if count > 1 else 0
    assert sum(p.numel() for p in model.retriever.parameters()) > 0
    assert model.trainable_parameters == model.prompts.embeddings.numel() + chooses


def test_training_mode_leaves_the_base_alone(tiny_model: Callable[..., SPTModel]):
    model = tiny_model().train()
    assert model.training
    assert model.retriever.training
    assert not any(module.training for module in model.backbone.model.modules())


def test_prompts_stay_in_float32_on_a_base_in_bfloat16(tiny_tokenizer):
    model = tiny_spt(LoadedBase(Backbone(tiny_llama(len(tiny_tokenizer)).bfloat16(), base="tiny"), tiny_tokenizer))
    output = model(packed(model), fuse_logits=True)
    assert {output.target_logprobs.dtype, output.scores.dtype, output.fused_logprobs.dtype} == {torch.float32}
    trained = gradients(model, packed(model), fuse_logits=True)
    assert {gradient.dtype for gradient in trained.values()} == {torch.float32}
    assert {parameter.dtype for parameter in (*model.prompts.parameters(), *model.retriever.parameters())} == {
        torch.float32
    }
    assert all(torch.isfinite(gradient).all() for gradient in trained.values())
    exact = tiny_spt(LoadedBase(Backbone(tiny_llama(len(tiny_tokenizer)), base="tiny"), tiny_tokenizer))
    torch.testing.assert_close(
        output.target_logprobs.mean(1), exact(packed(exact)).target_logprobs.mean(1), atol=0.05, rtol=0
    )


@pytest.mark.parametrize("fused", [False, True])
def test_logits_of_all_tokens_never_exist(tiny_tokenizer, fused: bool, monkeypatch):
    """With V = 6000, logits of the responses alone are K N V > 10 million numbers; at most chunks of them may exist.

    Attention weights, which training on a CPU keeps, are another matter; torch's own kernel keeps none.
    """
    monkeypatch.setattr("sptune.model.causal_attention.MOST_TOKENS", 0)
    model = tiny_spt(LoadedBase(Backbone(tiny_llama(6000), base="tiny"), tiny_tokenizer))
    batch = packed(model, DIALOGUES * 3)
    with Largest() as largest:
        total_loss(model(batch, fuse_logits=fused), batch).backward()
    chunk = 3 * 128 if fused else 256
    assert largest.numel == chunk * 6000
    assert largest.numel < 3 * len(batch.target_ids) * 6000 / 4


# Scores.


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_same_in_training_and_at_inference_whatever_the_response(
    tiny_model: Callable[..., SPTModel], kind: str
):
    model = tiny_model(retriever=kind)
    contexts = [dialogue.context(n) for dialogue in DIALOGUES for n in range(len(dialogue.turns))]
    with torch.no_grad():
        training = model(packed(model)).scores
    together = model.scores(contexts)
    torch.testing.assert_close(together, training, atol=1e-6, rtol=0)
    alone = torch.cat([model.scores([context]) for context in contexts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    changed = replace(
        DIALOGUES[0], turns=(*DIALOGUES[0].turns[:2], replace(DIALOGUES[0].turns[2], response="quite another"))
    )
    with torch.no_grad():
        torch.testing.assert_close(model(packed(model, (changed,))).scores, training[:3], atol=1e-6, rtol=0)
    assert together.std(0).max() > 1e-4  # contexts do differ


# Generation.


def test_a_reply_carries_its_selection(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    contexts = [dialogue.context(0) for dialogue in DIALOGUES]
    replies = model.generate(contexts)
    scores = model.scores(contexts)
    assert [reply.selection.prompt for reply in replies] == scores.argmax(1).tolist()
    for reply, row in zip(replies, scores, strict=True):
        assert reply.selection.scores == pytest.approx(tuple(row.tolist()))
        assert reply.text == model.text(reply.tokens)
        assert len(reply.tokens) <= 32
    assert [reply.selection.prompt for reply in model.generate(contexts, prompt=2)] == [2, 2, 2, 2]


def test_a_reply_is_cut_at_the_stops(tiny_base: LoadedBase, tiny_model: Callable[..., SPTModel]):
    tokens = tiny_base.tokenizer.encode(" i sail . Q: and you ?")
    model = tiny_model()
    assert model.text(tokens) == "i sail . Q: and you ?"
    model.stops = ("\n", "Q:")
    assert model.text(tokens) == "i sail ."
    assert model.decode(tokens) == " i sail . Q: and you ?"


def test_nothing_to_answer(tiny_model: Callable[..., SPTModel]):
    assert tiny_model().generate([]) == []
    assert tiny_model().scores([]).shape == (0, 3)


def test_old_turns_make_room_for_the_reply(tiny_tokenizer):
    """Where the window is all that limits contexts: what is dropped is no more than the reply needs."""
    model = tiny_spt(LoadedBase(Backbone(tiny_llama(len(tiny_tokenizer), window=96), base="tiny"), tiny_tokenizer))
    turns = tuple(Turn(f"and then {number} ?", f"i sail {number} .") for number in range(12))
    context = Dialogue("long", ("i sail .",), (*turns, Turn("hi")))
    for new in (4, 40):
        [reply] = model.generate([context], decoding=Decoding(max_new_tokens=new))
        assert len(reply.tokens) <= new


def test_a_context_that_does_not_fit_is_a_data_error(tiny_model: Callable[..., SPTModel]):
    long = Dialogue("long", ("i sail .",), (Turn("well , " * 600, line=8),))
    with pytest.raises(DataError, match=r"'long' \(line 8\).*window is 1024"):
        tiny_model().generate([long])


def test_a_base_without_an_end_of_sequence_token_learns_no_stop():
    tokenizer = byte_level_tokenizer()
    base = LoadedBase(Backbone(tiny_llama(len(tokenizer)), base="endless"), tokenizer)
    with pytest.raises(ModelError, match=r"no end-of-sequence token.*learn_stop=false"):
        SPTModel.from_base(base)
    model = tiny_spt(base, learn_stop=False)
    assert len(gradients(model, packed(model))) == 3
    assert len(model.generate([DIALOGUES[0].context(0)])[0].tokens) == 32
