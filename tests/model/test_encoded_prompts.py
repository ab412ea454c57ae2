"""Soft prompts that a network makes."""

from __future__ import annotations

import pytest
import torch

from sptune.model.encoded_prompts import EncodedPrompts, PromptEncoder

KINDS: list[PromptEncoder] = ["separate", "shared"]


def make(encoder: PromptEncoder = "separate", *, seed: int = 0, hidden: int | None = None) -> EncodedPrompts:
    return EncodedPrompts(count=3, length=2, dim=8, encoder=encoder, hidden=hidden, seed=seed)


@pytest.mark.parametrize("encoder", KINDS)
def test_shapes_and_sizes(encoder: PromptEncoder):
    prompts = make(encoder, hidden=5)
    assert (prompts.count, prompts.length, tuple(prompts.embeddings.shape)) == (3, 2, (3, 2, 8))
    network = (8 * 5 + 5) + (5 * 5 + 5) + (5 * 8 + 8)
    assert sum(p.numel() for p in prompts.parameters()) == 3 * 2 * 8 + network * (1 if encoder == "shared" else 3)
    assert torch.unique(prompts.embeddings.flatten(1), dim=0).shape[0] == 3, "the prompts differ"


@pytest.mark.parametrize("encoder", KINDS)
def test_only_a_shared_network_learns_from_what_another_prompt_sees(encoder: PromptEncoder):
    prompts = make(encoder)
    before = prompts.embeddings.detach()
    prompts.embeddings[0].sum().backward()
    torch.optim.SGD(prompts.parameters(), lr=0.1).step()
    moved = (prompts.embeddings - before).abs().amax(dim=(1, 2)) > 0
    assert moved.tolist() == [True, encoder == "shared", encoder == "shared"]


def test_the_seed_alone_says_where_they_start():
    state = torch.random.get_rng_state()
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.embeddings, again.embeddings)
    assert not torch.equal(first.embeddings, other.embeddings)


def test_plain_prompts_are_what_was_made():
    prompts = make()
    plain = prompts.plain()
    assert torch.equal(plain.embeddings, prompts.embeddings)
    assert [name for name, _ in plain.named_parameters()] == ["embeddings"]
    assert plain.plain() is plain
