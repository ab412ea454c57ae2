"""Candidates that share a context score as if each had run it alone, whatever the architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from architectures import make_architecture

from sptune.model import prefix as subject
from sptune.model.backbone import Backbone
from sptune.model.prefix import Prefix, Way, find_way, run_prefix, token_logprobs

VOCABULARY, STOP = 97, 5
CONTEXT = [11, 3, 58, 7, 90, 41, 2, 66, 31, 12, 74, 29, 8, 55, 20, 33, 47, 61, 19, 88, 4, 71]
CANDIDATES = [[9], [13, 4, 77, 4, 20, 91, 6], [13, 4, 77], [60, 61], [13, 4, 77, 4, 20, 91, 7], [9, 9, 9, 9]]

# architecture -> the fastest way that is exact for it
FASTEST: dict[str, Way] = {
    "llama": "packed",
    "gpt2": "packed",
    "opt": "packed",
    "opt-projected": "packed",
    "gpt-neox": "packed",
    "qwen3": "packed",
    "phi": "packed",
    "bloom": "repeated",  # ALiBi builds on a mask of two dimensions
    "gemma3": "separate",  # sliding windows: the cache forgets
    "mistral": "separate",
}


@pytest.fixture(scope="module", params=list(FASTEST))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backbone(name: str) -> Backbone:
    return Backbone(make_architecture(name, VOCABULARY), base=name)


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return Backbone(make_architecture("llama", VOCABULARY), base="llama")


@torch.no_grad()
def naive(backbone: Backbone, context: torch.Tensor, tokens: Sequence[int]) -> float:
    """Mean log-probability of `tokens` after embeddings (T, D), from full logits of one sequence."""
    inputs = torch.cat([context, backbone.embed(torch.tensor(tokens))])[None]
    logprobs = backbone.model(inputs_embeds=inputs, use_cache=False).logits[0].double().log_softmax(-1)
    rows = range(len(context) - 1, len(context) - 1 + len(tokens))
    return float(torch.stack([logprobs[row, token] for row, token in zip(rows, tokens, strict=True)]).mean())


def virtual(backbone: Backbone) -> torch.Tensor:
    """Embeddings of two virtual tokens and the context."""
    generator = torch.Generator().manual_seed(0)
    prompt = 0.3 * torch.randn(2, backbone.embedding_dim, generator=generator)
    return torch.cat([prompt, backbone.embed(torch.tensor(CONTEXT))])


def mean_logprobs(
    backbone: Backbone,
    prefix: Prefix,
    candidates: Sequence[Sequence[int]],
    *,
    context: int,
    stop_id: int | None,
    way: Way,
) -> list[float]:
    """Mean log-probability per token of each candidate; -inf for one without any token."""
    found = token_logprobs(
        backbone, prefix, [tuple(ids) for ids in candidates], context=context, stop_id=stop_id, way=way
    )
    return [float(values.mean()) if len(values) else -math.inf for values in found]


def scores(
    backbone: Backbone, way: Way, *, places: int, stop: int | None, tokens: Sequence[Sequence[int]]
) -> list[float]:
    prefix = run_prefix(backbone, virtual(backbone), way=way)
    return mean_logprobs(backbone, prefix, tokens, context=places, stop_id=stop, way=way)


def test_the_fastest_exact_way_is_found(backbone: Backbone, name: str) -> None:
    assert find_way(backbone) == FASTEST[name]


@pytest.mark.parametrize("way", ["packed", "repeated", "separate"])
@pytest.mark.parametrize("stop", [STOP, None])
def test_sharing_the_context_changes_nothing(backbone: Backbone, name: str, way: Way, stop: int | None) -> None:
    ways = ("packed", "repeated", "separate")
    if ways.index(way) < ways.index(FASTEST[name]):
        way = FASTEST[name]
    context = virtual(backbone)
    for places in (3, len(context) - 4, len(context)):  # turns of one dialogue: beginnings of one prefix
        tail = [] if stop is None else [stop]
        wanted = [naive(backbone, context[:places], [*tokens, *tail]) for tokens in CANDIDATES]
        got = scores(backbone, way, places=places, stop=stop, tokens=CANDIDATES)
        assert got == pytest.approx(wanted, abs=1e-5)
        assert len({round(value, 4) for value in wanted}) == len(wanted)  # the numbers could tell a mistake


def test_a_way_that_a_cache_does_not_allow_falls_back(name: str, backbone: Backbone) -> None:
    if FASTEST[name] != "separate":
        assert run_prefix(backbone, virtual(backbone), way="packed").cache is not None
        return
    prefix = run_prefix(backbone, virtual(backbone), way="packed")
    assert prefix.cache is None
    got = mean_logprobs(backbone, prefix, CANDIDATES, context=len(virtual(backbone)), stop_id=STOP, way="packed")
    assert got == pytest.approx(
        [naive(backbone, virtual(backbone), [*tokens, STOP]) for tokens in CANDIDATES], abs=1e-5
    )


@pytest.mark.parametrize("way", ["packed", "repeated", "separate"])
def test_portions_and_order_do_not_matter(llama: Backbone, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    places = len(virtual(llama))
    whole = scores(llama, way, places=places, stop=STOP, tokens=CANDIDATES)
    backward = scores(llama, way, places=places, stop=STOP, tokens=CANDIDATES[::-1])
    monkeypatch.setattr(subject, "_ROW_TOKENS", 16)
    monkeypatch.setattr(subject, "_BATCH_TOKENS", 64)
    assert backward[::-1] == pytest.approx(whole, abs=1e-5)
    assert scores(llama, way, places=places, stop=STOP, tokens=CANDIDATES) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("way", ["packed", "repeated", "separate"])
def test_an_empty_candidate_is_its_stop_token_or_nothing(llama: Backbone, way: Way) -> None:
    context = virtual(llama)
    empty, _ = scores(llama, way, places=len(context), stop=STOP, tokens=[[], [9]])
    assert empty == pytest.approx(naive(llama, context, [STOP]), abs=1e-5)
    assert scores(llama, way, places=len(context), stop=STOP, tokens=[[]]) == pytest.approx([empty], abs=1e-5)
    assert scores(llama, way, places=len(context), stop=None, tokens=[[], [9]])[0] == -math.inf


def test_the_context_runs_once(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    body = llama.body.forward
    monkeypatch.setattr(llama.body, "forward", counting(body, rows))
    prefix = run_prefix(llama, virtual(llama), way="packed")
    for places in (5, 12, len(virtual(llama))):
        mean_logprobs(llama, prefix, CANDIDATES, context=places, stop_id=STOP, way="packed")
    assert rows == [len(virtual(llama))] + [sum(map(len, CANDIDATES))] * 3


def counting(forward: Callable[..., object], rows: list[int]) -> Callable[..., object]:
    def counted(*arguments: object, inputs_embeds: torch.Tensor, **named: object) -> object:
        rows.append(inputs_embeds.shape[0] * inputs_embeds.shape[1])
        return forward(*arguments, inputs_embeds=inputs_embeds, **named)

    return counted


def test_the_cache_is_not_used_up(llama: Backbone) -> None:
    prefix = run_prefix(llama, virtual(llama), way="packed")
    first, second = (mean_logprobs(llama, prefix, CANDIDATES, context=10, stop_id=STOP, way="packed") for _ in range(2))
    assert first == second
