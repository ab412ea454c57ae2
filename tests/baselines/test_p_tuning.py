"""P-tuning: an encoder while it trains, a plain soft prompt afterwards."""

from __future__ import annotations

import pytest
import torch
from small_method import Fitted

from sptune.adapter import load_adapter
from sptune.baselines.p_tuning import FOLDER, EncodedPrompt
from sptune.config.compare import MethodSettings
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel


def test_it_ends_as_one_soft_prompt(fitted: Fitted, tiny_base: LoadedBase):
    method, folder = fitted("p_tuning", length=4, learning_rate=1e-2)
    model = SPTModel.from_pretrained(folder / FOLDER, base=tiny_base)
    assert (model.prompts.count, model.prompts.length, model.encoder.prompt_length) == (1, 4, 4)
    assert torch.equal(model.prompts.embeddings, method.load(folder).prompts.embeddings)
    assert set(load_adapter(folder / FOLDER).tensors) == {"prompts", "retriever.centre"}


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_the_prompt_is_what_the_encoder_makes(encoder: str):
    torch.manual_seed(0)
    prompt = EncodedPrompt(MethodSettings(kind="p_tuning", length=3, encoder=encoder, encoder_hidden=16), dim=8)
    assert (prompt.count, prompt.length) == (1, 3)
    prompt.embeddings.sum().backward()
    assert all(p.grad is not None for p in prompt.parameters())
    before = prompt.embeddings.detach()
    with torch.no_grad():
        prompt.encoder.embedding.weight.add_(1.0)
    assert not torch.allclose(prompt.embeddings, before)


def test_its_parameters_are_the_encoder_s(fitted: Fitted):
    method, _ = fitted("p_tuning", length=4, learning_rate=1e-2)
    layers = 3 * (32 * 32 + 32)
    assert method.trainable_parameters == 4 * 32 + layers
