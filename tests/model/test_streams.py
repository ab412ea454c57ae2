"""Replies from mixtures of prompts: the same packed, padded, alone and by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from naive import naive_logits
from torch import Tensor

from sptune.data.encoder import TokenSequence, TurnSpan
from sptune.model.load import LoadedBase
from sptune.model.mixture import one_hot
from sptune.model.packed import generate_packed
from sptune.model.padded import generate_padded
from sptune.model.prefix import Prefixes, find_way
from sptune.model.prompts import SoftPrompts
from sptune.model.spt import SPTModel
from sptune.model.streams import Rules, Speech, Stream, end_tokens
from tiny import DIALOGUES, tiny_spt

MIXED = (0.5, 0.2, 0.3)
STREAMS = (
    Stream(0, one_hot(1, 3)),
    Stream(2, MIXED),
    Stream(0, MIXED, temperature=1.5, seed=5),
    Stream(1, (0.0, 0.6, 0.4), temperature=0.7, seed=6),
    Stream(0, MIXED, temperature=1.5, seed=7),
    Stream(2, one_hot(0, 3), temperature=2.0, seed=8),
)


def contexts_of(model: SPTModel) -> list[tuple[int, ...]]:
    """Three contexts, of which one is the beginning of another."""
    talks = (DIALOGUES[0].context(0), DIALOGUES[1].context(1), DIALOGUES[0].context(2))
    ids = [model.encoder.encode_context(talk).input_ids for talk in talks]
    assert ids[2][: len(ids[0])] == ids[0]
    return ids


def rules_for(model: SPTModel, **rules: float) -> Rules:
    return Rules(**{"max_new_tokens": 7, "ends": end_tokens(model), **rules})


def packed(model: SPTModel, streams: Sequence[Stream], rules: Rules, said: Sequence = ()) -> list[list[int]]:
    contexts = contexts_of(model)
    prefixes = Prefixes(model, contexts, [range(model.prompts.count)] * 3, way="packed")
    return generate_packed(model, prefixes, Speech(streams, rules, said))


def padded(model: SPTModel, streams: Sequence[Stream], rules: Rules, said: Sequence = ()) -> list[list[int]]:
    return generate_padded(model, contexts_of(model), Speech(streams, rules, said))


def by_hand(model: SPTModel, weights: Sequence[float], context: tuple[int, ...], count: int) -> list[int]:
    """Greedy tokens of a mixture, each from forward passes of its own."""
    tokens: list[int] = []
    for _ in range(count):
        ids = (*context, *tokens)
        sequence = TokenSequence(DIALOGUES[0], ids, (TurnSpan(0, len(ids), len(ids), 0),))
        with torch.no_grad():
            each: list[Tensor] = [naive_logits(model, sequence, k)[-1].softmax(0) for k in range(len(weights))]
        best = int(sum(weight * probs for weight, probs in zip(weights, each, strict=True)).argmax())
        if best in end_tokens(model):
            break
        tokens.append(best)
    return tokens


def test_both_ways_say_the_same_on_every_architecture(any_base: LoadedBase):
    """Greedy and sampled, alone and mixed, short and long contexts together: and what the model says token by token."""
    model = tiny_spt(any_base)
    rules = rules_for(model)
    said = padded(model, STREAMS, rules)
    if find_way(model.backbone) == "packed":
        assert packed(model, STREAMS, rules) == said
    contexts = contexts_of(model)
    for stream, tokens in zip(STREAMS, said, strict=True):
        if not stream.temperature:
            assert tokens == by_hand(model, stream.weights, contexts[stream.context], 7)
    assert len({tuple(tokens) for tokens in said}) == len(STREAMS)


@pytest.mark.parametrize("way", [packed, padded])
def test_a_stream_depends_on_nothing_but_itself(tiny_model: Callable[..., SPTModel], way: Callable):
    model = tiny_model()
    rules = rules_for(model, top_p=0.9)
    together = way(model, STREAMS, rules)
    assert [way(model, [stream], rules)[0] for stream in STREAMS] == together
    assert way(model, STREAMS[::-1], rules) == together[::-1]


@pytest.mark.parametrize("way", [packed, padded])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_mixing_equal_prompts_is_one_of_them(tiny_model: Callable[..., SPTModel], way: Callable, temperature: float):
    model = tiny_model()
    model.prompts = SoftPrompts(model.prompts.embeddings[:1].detach().expand(3, -1, -1).clone())
    rules = rules_for(model, max_new_tokens=10)
    alone, mixed = (
        way(model, [Stream(n, weights, temperature, 1) for n in range(3)], rules) for weights in (one_hot(0, 3), MIXED)
    )
    assert mixed == alone


def test_streams_end_one_by_one(tiny_model: Callable[..., SPTModel]):
    """Ended streams and the rows that they leave empty make no difference to the others."""
    model = tiny_model()
    streams = [Stream(n % 3, MIXED if n % 2 else one_hot(n % 3, 3), 2.0, n) for n in range(12)]
    whole = packed(model, streams, rules_for(model, max_new_tokens=16, ends=()))
    ends = (whole[0][1], whole[1][3], whole[2][5], whole[7][2], whole[11][9])
    cut = packed(model, streams, rules_for(model, max_new_tokens=16, ends=ends))
    wanted = [tokens[: next((n for n, token in enumerate(tokens) if token in ends), 16)] for tokens in whole]
    assert cut == wanted == padded(model, streams, rules_for(model, max_new_tokens=16, ends=ends))
    assert len(set(map(len, cut))) > 4


@pytest.mark.parametrize("way", [packed, padded])
def test_what_was_said_earlier_is_not_said_again(tiny_model: Callable[..., SPTModel], way: Callable):
    model = tiny_model()
    stream = Stream(1, MIXED)
    (free,) = way(model, [stream], rules_for(model))
    said = [[], [tuple(free)], []]
    (other,) = way(model, [stream], rules_for(model, no_repeat_history_ngram=3), said)
    assert other[:2] == free[:2]
    pairs = {tuple(free[n : n + 3]) for n in range(len(free) - 2)}
    assert pairs
    assert not pairs & {tuple(other[n : n + 3]) for n in range(len(other) - 2)}
    assert way(model, [stream], rules_for(model, no_repeat_history_ngram=3), [[tuple(free)], [], []])[0] == free


@pytest.mark.parametrize("way", [packed, padded])
def test_no_token_twice(tiny_model: Callable[..., SPTModel], way: Callable):
    model = tiny_model()
    rules = rules_for(model, max_new_tokens=12, no_repeat_ngram_size=1)
    replies = way(model, STREAMS, rules)
    assert all(len(set(tokens)) == len(tokens) for tokens in replies)
    assert replies != way(model, STREAMS, replace(rules, no_repeat_ngram_size=0))


def test_a_shared_run_gives_what_a_run_of_its_own_gives(tiny_model: Callable[..., SPTModel]):
    model = tiny_model()
    contexts = contexts_of(model)
    shared = Prefixes(model, contexts, [(0, 2), (1,), (0,)], way="packed")
    assert shared.run(0, 0) is shared.run(2, 0)
    own = Prefixes(model, contexts[:1], [(0,)], way="packed")
    places = own.places(0)
    assert places == shared.places(0) == 4 + len(contexts[0])
    assert torch.allclose(shared.run(0, 0).states[:places], own.run(0, 0).states[:places], atol=1e-5)
    for whole, alone in zip(shared.run(0, 0).cache.layers, own.run(0, 0).cache.layers, strict=True):
        assert torch.allclose(whole.keys[:, :, :places], alone.keys[:, :, :places], atol=1e-5)
