"""The frozen base model: driven by embeddings on every architecture, or refused; never trained, never noisy."""

from __future__ import annotations

from copy import deepcopy
from types import MethodType

import pytest
import torch
from architectures import make_architecture
from torch import Tensor
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    OpenAIGPTConfig,
    PretrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
    XLNetConfig,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from sptune.errors import ModelError
from sptune.model.backbone import Backbone
from tiny import Largest, tiny_llama


def ids_of(vocabulary: int, rows: int = 2, tokens: int = 40) -> Tensor:
    return torch.randint(vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(0))


def test_every_architecture_passes_the_probe_and_runs_on_embeddings(any_base):
    backbone = any_base.backbone
    ids = ids_of(len(any_base.tokenizer))
    wanted = backbone.model(input_ids=ids).logits
    hidden = backbone.hidden(backbone.embed(ids))
    torch.testing.assert_close(backbone.head(hidden), wanted, atol=1e-4, rtol=0)
    targets = ids.roll(-1, 1)
    expected = wanted.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(backbone.target_logprobs(hidden, targets), expected, atol=1e-4, rtol=0)


def test_padding_on_the_right_changes_nothing(any_base):
    backbone = any_base.backbone
    ids = ids_of(len(any_base.tokenizer))
    padded = torch.cat([ids, torch.zeros(2, 9, dtype=torch.long)], dim=1)
    torch.testing.assert_close(
        backbone.hidden(backbone.embed(padded))[:, :40], backbone.hidden(backbone.embed(ids)), atol=1e-5, rtol=0
    )


def test_an_architectures_sizes_are_found(any_base):
    backbone = any_base.backbone
    assert backbone.window == (None if backbone.base == "bloom" else 512)
    assert backbone.embedding_dim == (16 if backbone.base == "opt-projected" else 32)
    assert backbone.embed(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, backbone.embedding_dim)


def test_the_base_never_trains(any_base):
    backbone = any_base.backbone
    inputs = backbone.embed(ids_of(len(any_base.tokenizer))).requires_grad_()
    quiet = backbone.hidden(inputs)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    backbone.train()
    assert not any(module.training for module in backbone.model.modules())
    assert torch.equal(backbone.hidden(inputs), quiet)
    quiet.sum().backward()
    assert inputs.grad is not None
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "gpt-neox", "bloom", "gemma3", "phi"])
def test_recomputed_activations_give_the_same_numbers(name: str):
    """The tiny models' dropout is high; none of it may wake."""
    backbone = Backbone(make_architecture(name, 420), base=name)
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    calls: list[int] = []
    next(layers[-1].children()).register_forward_hook(lambda *_: calls.append(1))
    ids, gradients = ids_of(420), []
    for recomputed in (False, True):
        if recomputed:
            backbone.checkpoint_activations()
        embeddings = backbone.embed(ids)
        assert not embeddings.requires_grad
        calls.clear()
        inputs = embeddings.requires_grad_()
        backbone.hidden(inputs).square().sum().backward()
        assert len(calls) == (2 if recomputed else 1)
        assert not any(module.training for module in backbone.model.modules())
        gradients.append(inputs.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("name", ["gemma3-pictures", "bamba"])
def test_a_copy_generates_with_its_own_weights(name: str):
    """Its class does not name `inputs_embeds` for `generate`, so the backbone does, on the model itself."""
    model = Backbone(make_architecture(name, 90), base=name).model
    other = Backbone(deepcopy(model), base="copy").model
    with torch.no_grad():
        other.get_output_embeddings().weight.neg_()
    embeddings = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0))
    for one in (model, other):
        [said] = one.generate(inputs_embeds=embeddings, max_new_tokens=1, do_sample=False, pad_token_id=0)
        assert said.tolist() == [int(one(inputs_embeds=embeddings).logits[0, -1].argmax())]


@pytest.mark.parametrize("kind", ["cohere", "granite", "gemma2"])
def test_scaled_and_capped_logits_are_followed(kind: str):
    sizes = {
        "vocab_size": 90,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
    }
    makers = {
        "cohere": lambda: CohereForCausalLM(CohereConfig(**sizes, logit_scale=0.25, pad_token_id=0, eos_token_id=1)),
        "granite": lambda: GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=3.0)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8, final_logit_softcapping=2.0)),
    }
    model = makers[kind]()
    backbone, ids = Backbone(model, base=kind), ids_of(90)
    torch.testing.assert_close(backbone.head(backbone.hidden(backbone.embed(ids))), model(input_ids=ids).logits)


# Models that need more than embeddings.


def test_a_model_that_reads_its_ids_besides_is_refused():
    model = tiny_llama(90)
    forward = model.forward

    def with_ids(self, input_ids=None, **kwargs):
        output = forward(input_ids=input_ids, **kwargs)
        if input_ids is not None:
            output.logits = output.logits + (input_ids % 2)[..., None] * torch.linspace(0, 1, 90)
        return output

    model.forward = MethodType(with_ids, model)
    with pytest.raises(ModelError, match=r"reader: logits from input embeddings differ .*more than input embeddings"):
        Backbone(model, base="reader")


def test_a_model_whose_logits_are_more_than_a_head_is_refused():
    model = tiny_llama(90)
    forward = model.forward

    def biased(self, **kwargs):
        output = forward(**kwargs)
        output.logits = output.logits + torch.linspace(0, 1, 90)
        return output

    model.forward = MethodType(biased, model)
    with pytest.raises(ModelError, match="biased: logits from body and head apart differ"):
        Backbone(model, base="biased")


def test_a_model_that_sees_ahead_is_refused():
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 90,
    }
    model = BertLMHeadModel(BertConfig(**sizes, is_decoder=False, initializer_range=0.3))
    with pytest.raises(ModelError, match="bert"):
        Backbone(model, base="bert")


@pytest.mark.parametrize(
    "config",
    [
        OpenAIGPTConfig(vocab_size=90, n_embd=32, n_layer=2, n_head=2),
        XLNetConfig(vocab_size=90, d_model=32, n_layer=2, n_head=2, d_inner=48),
    ],
)
def test_a_model_that_does_not_generate_from_embeddings_is_refused(config: PretrainedConfig):
    """Before it is trained: it would run, and fail at its first reply."""
    with pytest.raises(ModelError, match="does not generate from input embeddings"):
        Backbone(Auto.from_config(config), base="x")


def test_an_encoder_decoder_is_refused():
    model = T5ForConditionalGeneration(T5Config(vocab_size=90, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4))
    with pytest.raises(
        ModelError, match=r"t5: this model's body, .* is not found \(it has neither 'transformer' nor 'model'\)"
    ):
        Backbone(model, base="t5")


def test_weights_that_are_not_finite_are_refused():
    model = tiny_llama(90)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="broken"):
        Backbone(model, base="broken")


# The word embeddings, and the identity of a base.


def test_the_vocabulary_is_what_the_model_reads(any_base):
    """Gemma multiplies its table's rows by the square root of the width; prompts must start at that scale."""
    backbone = any_base.backbone
    vocabulary = backbone.vocabulary()
    assert torch.equal(vocabulary[5], backbone.embed(torch.tensor([[5]]))[0, 0])
    scale = 32**0.5 if backbone.base.startswith("gemma3") else 1
    torch.testing.assert_close(vocabulary, backbone.embedding_table * scale)


def test_the_norm_of_the_vocabulary_is_the_mean_over_its_rows(any_base):
    wanted = float(any_base.backbone.vocabulary().norm(dim=1).mean())
    assert any_base.backbone.vocabulary_norm() == pytest.approx(wanted)


def test_the_norm_is_found_in_parts():
    backbone = Backbone(tiny_llama(20_000), base="many")
    with Largest() as largest:
        norm = backbone.vocabulary_norm()
    assert largest.numel <= 5000 * backbone.embedding_dim
    assert norm == pytest.approx(float(backbone.vocabulary().norm(dim=1).mean()))


def test_figures_of_the_embeddings_are_kept_while_they_are_frozen(monkeypatch: pytest.MonkeyPatch):
    backbone = Backbone(tiny_llama(90), base="a")
    before = (backbone.vocabulary_norm(), backbone.embedding_hash())
    monkeypatch.setattr(backbone, "embed", None)
    with Largest() as largest:
        assert (backbone.vocabulary_norm(), backbone.embedding_hash()) == before
    assert largest.numel == 0


def test_figures_of_embeddings_that_are_trained_are_new():
    backbone = Backbone(tiny_llama(90), base="a")
    before = (backbone.vocabulary_norm(), backbone.embedding_hash())
    table = backbone.embedding_table.requires_grad_()
    with torch.no_grad():
        table.mul_(2)
    assert backbone.vocabulary_norm() == pytest.approx(2 * before[0])
    assert backbone.embedding_hash() != before[1]


def test_the_hash_is_that_of_the_table_in_bfloat16():
    model, other = tiny_llama(90).bfloat16(), tiny_llama(90)
    with torch.no_grad():
        other.model.embed_tokens.weight[3, 3] += 1
    digest = Backbone(model, base="a").embedding_hash()
    assert Backbone(model.float(), base="b").embedding_hash() == digest
    assert Backbone(other, base="a").embedding_hash() != digest
    assert len(digest) == 64
