"""One generate call for contexts under different prompts: what each would have said alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from naive import naive_logits
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from sptune.data.dialogue import Dialogue
from sptune.data.encoder import TokenSequence, TurnSpan
from sptune.errors import UsageError
from sptune.model.backbone import Backbone
from sptune.model.generate import Decoding, PromptedContext, generate_tokens, said_in, speaker
from sptune.model.load import LoadedBase
from sptune.model.mixture import Speakers
from sptune.model.padded import left_padded
from sptune.model.selection import Selection
from sptune.model.spt import SPTModel
from tiny import DIALOGUES, byte_level_tokenizer, tiny_llama, tiny_spt

SHORT = Decoding(max_new_tokens=6)


def contexts_of(model: SPTModel, dialogues: tuple[Dialogue, ...] = DIALOGUES) -> list[PromptedContext]:
    """A context of each dialogue, at lengths that differ, under prompts that differ."""
    contexts = [dialogue.context(min(i, len(dialogue.turns) - 1)) for i, dialogue in enumerate(dialogues)]
    return [
        PromptedContext(model.encoder.encode_context(c).input_ids, i % model.prompts.count)
        for i, c in enumerate(contexts)
    ]


def test_a_batch_says_what_each_row_says_alone_on_every_architecture(any_base: LoadedBase):
    model = tiny_spt(any_base)
    rows = contexts_of(model)
    assert len({len(row.input_ids) for row in rows}) == len(rows)
    together = generate_tokens(model, rows, decoding=SHORT)
    assert together == [generate_tokens(model, [row], decoding=SHORT)[0] for row in rows]


def test_greedy_tokens_are_the_naive_ones_on_every_architecture(any_base: LoadedBase):
    """Each token is the best after [prompt; context; tokens so far], by a forward pass of its own."""
    model = tiny_spt(any_base)
    row = contexts_of(model)[1]
    (tokens,) = generate_tokens(model, [row], decoding=SHORT)
    ids = list(row.input_ids)
    wanted: list[int] = []
    for _ in range(SHORT.max_new_tokens):
        span = TurnSpan(0, len(ids), len(ids), 0)
        with torch.no_grad():
            best = int(naive_logits(model, TokenSequence(DIALOGUES[0], tuple(ids), (span,)), row.prompt)[-1].argmax())
        if best == model.encoder.stop_id:
            break
        wanted.append(best)
        ids.append(best)
    assert tokens == wanted
    assert wanted


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new_tokens=8, num_beams=3),
        Decoding(max_new_tokens=8, num_beams=3, no_repeat_ngram_size=2),
        Decoding(max_new_tokens=8, no_repeat_ngram_size=1),
    ],
    ids=["beams", "beams without repetition", "no token twice"],
)
def test_batches_equal_single_rows_under_every_deterministic_decoding(
    tiny_model: Callable[..., SPTModel], decoding: Decoding
):
    model = tiny_model()
    rows = contexts_of(model)
    together = generate_tokens(model, rows, decoding=decoding)
    assert together == [generate_tokens(model, [row], decoding=decoding)[0] for row in rows]
    if decoding.no_repeat_ngram_size == 1:
        assert all(len(set(tokens)) == len(tokens) for tokens in together)


def test_the_prompt_matters(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    ids = contexts_of(model)[0].input_ids
    replies = generate_tokens(model, [PromptedContext(ids, k) for k in range(3)], decoding=Decoding(max_new_tokens=12))
    assert len({tuple(reply) for reply in replies}) == 3


def test_padding_stands_outside_the_prompt(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    rows = [PromptedContext((5, 6, 7), 1), PromptedContext((8,), 2)]
    inputs = left_padded(model, rows)
    assert inputs.mask.tolist() == [[1] * 7, [0, 0, 1, 1, 1, 1, 1]]
    assert torch.equal(inputs.embeddings[1, :2], torch.zeros(2, 32))
    assert torch.equal(inputs.embeddings[1, 2:6], model.prompts.embeddings[2])
    assert torch.equal(inputs.embeddings[1, 6:], model.backbone.embed(torch.tensor([[8]]))[0])


def test_samples_depend_on_the_seed_alone_and_leave_the_random_state_as_it_was(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    rows = contexts_of(model)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, again, other = (
        generate_tokens(model, rows, decoding=Decoding(max_new_tokens=8, temperature=1.5, top_p=0.9, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)
    assert first != generate_tokens(model, rows, decoding=Decoding(max_new_tokens=8))


def test_a_base_models_own_habits_of_decoding_do_not_count(tiny_tokenizer):
    """Checkpoints come with sampling settings and penalties of their own; a greedy reply is greedy all the same."""
    plain = tiny_spt(LoadedBase(Backbone(tiny_llama(len(tiny_tokenizer)), base="tiny"), tiny_tokenizer))
    language_model = tiny_llama(len(tiny_tokenizer))
    settings = {
        "do_sample": True,
        "temperature": 5.0,
        "top_k": 3,
        "repetition_penalty": 5.0,
        "min_new_tokens": 3,
        "num_beams": 2,
        "max_length": 5,
        "suppress_tokens": list(range(100, 420)),
        "bad_words_ids": [[20]],
        "eos_token_id": [30, 31],
    }
    for name, value in settings.items():
        setattr(language_model.generation_config, name, value)
    habits = tiny_spt(LoadedBase(Backbone(language_model, base="tiny"), tiny_tokenizer))
    rows = contexts_of(plain)
    assert generate_tokens(habits, rows, decoding=SHORT) == generate_tokens(plain, rows, decoding=SHORT)


def stopping_model(tokenizer, stop: int, **settings) -> SPTModel:
    """A model that always says `stop` next."""
    language_model = tiny_llama(len(tokenizer), **settings)
    with torch.no_grad():
        language_model.model.norm.weight.zero_()
        language_model.lm_head = torch.nn.Linear(32, len(tokenizer))
        language_model.lm_head.bias[stop] = 9
    return tiny_spt(
        LoadedBase(Backbone(language_model, base="tiny"), tokenizer), learn_stop=tokenizer.eos_token is not None
    )


def test_the_stop_and_what_follows_it_are_no_part_of_a_reply(tiny_tokenizer):
    model = stopping_model(tiny_tokenizer, tiny_tokenizer.eos_token_id)
    assert generate_tokens(model, contexts_of(model), decoding=SHORT) == [[], [], [], []]
    assert [reply.text for reply in model.generate([DIALOGUES[0].context(0)])] == [""]


def test_without_a_learned_stop_the_base_models_own_ends_a_reply():
    tokenizer = byte_level_tokenizer()
    for eos in (50, [49, 50]):
        model = stopping_model(tokenizer, 50, eos_token_id=eos)
        assert model.encoder.stop_id is None
        assert generate_tokens(model, contexts_of(model), decoding=SHORT) == [[], [], [], []]
    model = stopping_model(tokenizer, 51, eos_token_id=50)
    assert generate_tokens(model, contexts_of(model), decoding=SHORT) == [[51] * 6] * 4


def test_a_reply_that_does_not_fit_the_window_is_a_usage_error(tiny_tokenizer):
    model = tiny_spt(LoadedBase(Backbone(tiny_llama(len(tiny_tokenizer), window=64), base="tiny"), tiny_tokenizer))
    row = PromptedContext(tuple(range(4, 44)), 0)  # 40 tokens, and 4 virtual ones
    assert generate_tokens(model, [row], decoding=Decoding(max_new_tokens=20))
    with pytest.raises(
        UsageError, match=r"max_new_tokens: .*21 new tokens need 65 places.*window is 64; lower max_new_tokens"
    ):
        generate_tokens(model, [row], decoding=Decoding(max_new_tokens=21))


def test_the_bare_model_generates_as_ever(tiny_base: LoadedBase):
    model = tiny_spt(tiny_base, count=1, length=0)
    ids = model.encoder.encode_context(DIALOGUES[0].context(1)).input_ids
    wanted = tiny_base.backbone.model.generate(
        torch.tensor([ids]), max_new_tokens=6, do_sample=False, eos_token_id=0, pad_token_id=0
    )
    assert generate_tokens(model, [PromptedContext(ids, 0)], decoding=SHORT)[0] == wanted[0, len(ids) :].tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    product(
        (
            "max_new_tokens",
            "temperature",
            "top_p",
            "num_beams",
            "no_repeat_ngram_size",
            "no_repeat_history_ngram",
            "gate_temperature",
        ),
        (-1, float("nan")),
    ),
)
def test_decoding_refuses_what_no_decoder_takes(name: str, value: float):
    with pytest.raises(UsageError, match=f"{name}: {value} is out of range"):
        Decoding(**{name: value})


def selected(model: SPTModel, rows: list[PromptedContext]) -> list[Selection]:
    """For each row its own prompt, with scores that differ."""
    return [Selection(row.prompt, tuple(0.1 * ((k + n) % 3) for k in range(3)), 0.1) for n, row in enumerate(rows)]


def spoken(model: SPTModel, decoding: Decoding, **more: Any) -> list[list[int]]:
    rows = contexts_of(model)
    contexts = [
        speaker(row.input_ids, one, decoding.speakers(Speakers()))
        for row, one in zip(rows, selected(model, rows), strict=True)
    ]
    return generate_tokens(model, contexts, decoding=decoding, **more)


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_sharp_gate_is_the_best_prompt_alone_and_a_flat_one_is_fused(
    tiny_model: Callable[..., SPTModel], temperature: float
):
    model = tiny_model()
    base = Decoding(max_new_tokens=8, temperature=temperature, seed=3)
    best = [
        replace(row, prompt=max(range(3), key=one.scores.__getitem__))
        for row, one in zip(contexts_of(model), selected(model, contexts_of(model)), strict=True)
    ]
    alone = generate_tokens(model, best, decoding=base)
    assert spoken(model, replace(base, kind="gated", gate_temperature=1e-4)) == alone
    fused = spoken(model, replace(base, kind="fused"))
    assert spoken(model, replace(base, kind="gated", gate_temperature=1e6)) == fused
    assert spoken(model, base) == generate_tokens(model, contexts_of(model), decoding=base)
    assert len({str(replies) for replies in (fused, alone, spoken(model, base))}) == 3


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_streamed_and_stopped_replies_are_the_same(tiny_model: Callable[..., SPTModel], temperature: float):
    """A streamer and stopping criteria go through transformers; everything else need not."""
    model = tiny_model()
    for kind in ("top1", "fused"):
        decoding = Decoding(max_new_tokens=8, temperature=temperature, top_p=0.9, seed=3, kind=kind)
        free = spoken(model, decoding)
        assert spoken(model, decoding, stopping=StoppingCriteriaList([Never()])) == free
        seen = Seen()
        row = contexts_of(model)[0]
        context = speaker(row.input_ids, selected(model, [row])[0], decoding.speakers(Speakers()))
        assert generate_tokens(model, [context], decoding=decoding, streamer=seen) == [free[0]]
        assert seen.tokens[: len(free[0])] == free[0]


class Never(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Seen(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        pass


@pytest.mark.parametrize("beams", [1, 3])
def test_beams_too_do_not_say_again_what_was_said_earlier(tiny_model: Callable[..., SPTModel], beams: int):
    model = tiny_model()
    free = Decoding(max_new_tokens=8, num_beams=beams)
    rows = contexts_of(model)
    before = generate_tokens(model, rows, decoding=free)
    rows = [replace(row, said=[tuple(tokens)]) for row, tokens in zip(rows, before, strict=True)]
    after = generate_tokens(model, rows, decoding=replace(free, no_repeat_history_ngram=2))
    for old, new in zip(before, after, strict=True):
        assert not set(pairwise(old)) & set(pairwise(new))
    assert generate_tokens(model, rows, decoding=free) == before


def test_the_model_lets_prompts_speak_together(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    talks = [DIALOGUES[0].context(2), DIALOGUES[3].context(4)]
    for kind in ("fused", "gated"):
        replies = model.generate(talks, decoding=replace(SHORT, kind=kind))
        ids = [model.encoder.encode_context(talk).input_ids for talk in talks]
        contexts = [speaker(row, reply.selection, Speakers(kind)) for row, reply in zip(ids, replies, strict=True)]
        assert [list(reply.tokens) for reply in replies] == generate_tokens(model, contexts, decoding=SHORT)
        assert replies != model.generate(talks, decoding=SHORT)


def test_the_model_knows_what_it_said(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    talk = DIALOGUES[0].context(0)
    (first,) = model.generate([talk], decoding=SHORT)
    text = model.decode(first.tokens)
    again = talk.answer(text).say(talk.turns[0].user)
    assert said_in(model, again) == [model.encoder.response_ids(text)]
    (reply,) = model.generate([again], decoding=replace(SHORT, no_repeat_history_ngram=1))
    assert not set(reply.tokens) & set(model.encoder.response_ids(text))


def test_beams_follow_one_prompt():
    with pytest.raises(UsageError, match="num_beams: 3 beams follow one prompt; use num_beams=1 with fused"):
        Decoding(num_beams=3, kind="fused")
    with pytest.raises(UsageError, match="kind: 'all' is not one of top1, fused, gated"):
        Decoding(kind="all")
