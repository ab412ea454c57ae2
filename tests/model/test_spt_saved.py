"""From a base to a model, to a folder and back: everything comes back, and nothing that does not fit is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from naive import naive_target_logprobs
from torch import Tensor

from sptune.adapter import Adapter
from sptune.errors import AdapterError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.retriever import Retriever
from sptune.model.spt import SPTModel
from tiny import DIALOGUES, JINJA_TEMPLATE, packed, tiny_llama, tiny_spt

KINDS = ("linear", "mlp", "transformer", "identity")


def test_from_base_makes_prompts_that_differ_and_depend_on_the_seed(tiny_base: LoadedBase):
    state = torch.get_rng_state()
    first, again, other = (
        SPTModel.from_base(tiny_base, num_prompts=3, prompt_length=4, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.prompts.embeddings, again.prompts.embeddings)
    assert torch.equal(first.retriever.map.weight, again.retriever.map.weight)
    assert not torch.equal(first.prompts.embeddings, other.prompts.embeddings)
    assert not torch.equal(first.retriever.map.weight, other.retriever.map.weight)
    assert "\n" in first.stops
    assert SPTModel.from_base(tiny_base, template="chat").stops == ()


@pytest.mark.parametrize("template", ["paper", "chat", "jinja"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back_the_same(tiny_base: LoadedBase, tmp_path: Path, kind: str, template: str):
    model = tiny_spt(
        tiny_base,
        template,
        retriever=Retriever(kind, dim=32, hidden=12, activation="leaky_relu"),
        source=JINJA_TEMPLATE if template == "jinja" else None,
        max_length=300,
        reserve=33,
    )
    model.retriever.centre.copy_(torch.linspace(-1, 1, 32))
    model.stops = ("\n", "Q:")
    model.save_pretrained(tmp_path / "adapter")
    loaded = SPTModel.from_pretrained(tmp_path / "adapter", base=tiny_base)
    assert loaded.adapter().config == model.adapter().config
    for name, tensor in model.adapter().tensors.items():
        assert torch.equal(loaded.adapter().tensors[name], tensor)
    assert loaded.encoder.encode(DIALOGUES[3]) == model.encoder.encode(DIALOGUES[3])
    with torch.no_grad():
        assert torch.equal(loaded(packed(loaded)).target_logprobs, model(packed(model)).target_logprobs)
        assert torch.equal(loaded(packed(loaded)).scores, model(packed(model)).scores)


def test_the_bare_model_is_saved_too(tiny_base: LoadedBase, tmp_path: Path):
    model = tiny_spt(tiny_base, count=1, length=0)
    model.save_pretrained(tmp_path)
    loaded = SPTModel.from_pretrained(str(tmp_path), base=tiny_base)
    output = loaded(packed(loaded))
    assert output.target_logprobs.shape[0] == 1
    torch.testing.assert_close(output.target_logprobs, naive_target_logprobs(loaded, DIALOGUES), atol=1e-4, rtol=0)


def test_a_model_that_is_not_finite_is_not_saved(tiny_model: Callable[..., SPTModel], tmp_path: Path):
    model = tiny_model()
    with torch.no_grad():
        model.prompts.embeddings[0, 0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"prompts: .*not finite"):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_another_base_is_refused(tiny_base: LoadedBase, tmp_path: Path, tiny_model: Callable[..., SPTModel]):
    tiny_model().save_pretrained(tmp_path)
    other = tiny_llama(len(tiny_base.tokenizer))
    with torch.no_grad():
        other.model.embed_tokens.weight += 0.1
    with pytest.raises(
        AdapterError, match=r"trained on 'tiny', whose embedding table differs from that of 'other'; give the base"
    ):
        SPTModel.from_pretrained(tmp_path, base=LoadedBase(Backbone(other, base="other"), tiny_base.tokenizer))
    narrow = tiny_llama(len(tiny_base.tokenizer), hidden_size=16)
    with pytest.raises(AdapterError, match=r"width 32 \(tiny\); narrow has width 16; give the base"):
        SPTModel.from_pretrained(tmp_path, base=LoadedBase(Backbone(narrow, base="narrow"), tiny_base.tokenizer))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("retriever.map.weight", None),
        ("retriever.map.weight", torch.zeros(32, 31)),
        ("retriever.map.bias", torch.zeros(())),
        ("retriever.map.surprise", torch.zeros(1)),
        ("prompts", torch.zeros(3, 5, 32)),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_change_nothing(
    tiny_model: Callable[..., SPTModel], name: str, tensor: Tensor | None
):
    model, other = tiny_model(), tiny_model()
    adapter = other.adapter()
    tensors: dict[str, Tensor] = {key: value + 1 for key, value in adapter.tensors.items()} | {name: tensor}  # type: ignore[dict-item]
    before = {key: value.clone() for key, value in model.adapter().tensors.items()}
    broken = Adapter(adapter.config, {key: value for key, value in tensors.items() if value is not None})
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: "):
        model.load_tensors(broken)
    for key, value in model.adapter().tensors.items():
        assert torch.equal(value, before[key]), key


def test_a_folder_that_is_not_there_is_an_adapter_error(tmp_path: Path):
    for wrong in (tmp_path / "absent", "./absent", "some/owner/name", "nobody-at-all/absent"):
        with pytest.raises(AdapterError, match=r"absent|name"):
            SPTModel.from_pretrained(wrong)
