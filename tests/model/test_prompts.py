"""Soft prompts: float32, trainable, and never two alike, however they begin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sptune.errors import RecipeError
from sptune.model.prompts import SoftPrompts, from_kmeans, from_token_ids, random_normal, sample_rows

V, D = 40, 6
TABLE = torch.randn(V, D, generator=torch.Generator().manual_seed(0)) * 3 + 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


INITS: dict[str, Callable[..., Tensor]] = {
    "vocabulary": lambda table, k, length, seed=0: sample_rows(table, count=k, length=length, generator=seeded(seed)),
    "text": lambda table, k, length, seed=0: from_token_ids(
        table, ids=[3, 1, 4], count=k, length=length, generator=seeded(seed)
    ),
    "kmeans": lambda table, k, length, seed=0: from_kmeans(table, count=k, length=length, seed=seed),
    "random": lambda table, k, length, seed=0: random_normal(table, count=k, length=length, generator=seeded(seed)),
}


@pytest.mark.parametrize(("k", "length"), [(1, 1), (4, 2), (3, 8), (7, 13), (60, 1)])
@pytest.mark.parametrize("init", INITS)
def test_prompts_have_their_shape_and_all_differ(init: str, k: int, length: int):
    prompts = INITS[init](TABLE, k, length)
    assert prompts.shape == (k, length, D)
    assert prompts.dtype == torch.float32
    assert torch.isfinite(prompts).all()
    assert len({tuple(prompt.flatten().tolist()) for prompt in prompts}) == k


@pytest.mark.parametrize("init", ["vocabulary", "text", "random"])
def test_no_virtual_tokens_is_the_bare_model(init: str):
    assert INITS[init](TABLE, 2, 0).shape == (2, 0, D)


@pytest.mark.parametrize("init", INITS)
def test_the_seed_decides(init: str):
    first, again, other = (INITS[init](TABLE, 4, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("init", INITS)
def test_prompts_begin_at_the_scale_of_the_vocabulary_in_float32(init: str):
    prompts = INITS[init](TABLE.bfloat16(), 4, 5)
    assert prompts.dtype == torch.float32
    norm = TABLE.norm(dim=1).mean()
    assert 0.5 * norm < prompts.norm(dim=-1).mean() < 2 * norm


@pytest.mark.parametrize("init", INITS)
def test_a_vocabulary_of_equal_rows_still_gives_different_prompts(init: str):
    if init != "random":  # whose noise has the vocabulary's spread, 0
        prompts = INITS[init](torch.ones(V, D), 3, 2)
        assert not torch.equal(prompts[0], prompts[1])
        assert not torch.equal(prompts[1], prompts[2])


def test_sampled_rows_are_rows_and_none_is_drawn_twice_while_there_are_enough():
    rows = sample_rows(TABLE, count=5, length=8, generator=seeded(0)).view(-1, D)
    assert {tuple(row.tolist()) for row in rows} == {tuple(row.tolist()) for row in TABLE}


def test_a_text_is_repeated_or_cut_to_the_length():
    longer = from_token_ids(TABLE, ids=[3, 1], count=2, length=5, generator=seeded(0))
    assert torch.equal(longer[0], TABLE[[3, 1, 3, 1, 3]])
    assert 0 < (longer[1] - longer[0]).abs().max() < TABLE.std() * 0.1 * 5
    assert torch.equal(from_token_ids(TABLE, ids=[3, 1], count=1, length=1, generator=seeded(0))[0], TABLE[[3]])
    with pytest.raises(RecipeError, match=r"prompts\.text: empty"):
        from_token_ids(TABLE, ids=[], count=1, length=1, generator=seeded(0))


def test_the_module_keeps_a_float32_copy():
    values = torch.ones(2, 3, D, dtype=torch.bfloat16)
    prompts = SoftPrompts(values)
    assert (prompts.count, prompts.length) == (2, 3)
    assert prompts.embeddings.dtype == torch.float32
    assert [name for name, _ in prompts.named_parameters()] == ["embeddings"]
    with torch.no_grad():
        prompts.embeddings[0] = 5
    assert float(values.max()) == 1
