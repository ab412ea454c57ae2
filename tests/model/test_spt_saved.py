"""From a base to a model, to a folder and back: everything comes back, and nothing that does not fit is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from naive import naive_target_logprobs
from safetensors.torch import save_file
from torch import Tensor

from sptune.adapter import CONFIG_NAME, FORMAT_VERSION, WEIGHTS_NAME, Adapter, RetrieverConfig
from sptune.errors import AdapterError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.retriever import Reading, Retriever
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


RETRIEVERS: dict[str, dict[str, Any]] = {
    "recent": {"reading": Reading("recent", half_life=2.5)},
    "whitened": {"reading": Reading(rank=6), "activation": "none"},
    "whitened to its own width": {"kind": "identity", "reading": Reading("recent", half_life=1e6, rank=6), "keys": 3},
    "hidden": {"kind": "mlp", "reading": Reading("hidden"), "keys": 3},
    "everything": {"reading": Reading("hidden", half_life=0.25, rank=6), "keys": 3, "activation": "none"},
    "keys of a transformer": {"kind": "transformer", "keys": 3},
}


@pytest.mark.parametrize("name", RETRIEVERS)
def test_every_way_to_read_and_compare_comes_back(tiny_base: LoadedBase, tmp_path: Path, name: str):
    model = tiny_spt(tiny_base, retriever=Retriever(**{"kind": "linear", "dim": 32, "hidden": 12, **RETRIEVERS[name]}))
    for buffer in model.retriever.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(0)))
    model.save_pretrained(tmp_path / "adapter")
    loaded = SPTModel.from_pretrained(tmp_path / "adapter", base=tiny_base)
    assert loaded.retriever.reading == model.retriever.reading
    assert loaded.adapter().config == model.adapter().config
    assert loaded.adapter().tensors.keys() == model.adapter().tensors.keys()
    assert ("retriever.keys" in loaded.adapter().tensors) == ("keys" in RETRIEVERS[name])
    contexts = [dialogue.context(0) for dialogue in DIALOGUES]
    assert torch.equal(loaded.scores(contexts), model.scores(contexts))


def test_an_adapter_of_format_1_gives_the_scores_it_always_gave(tiny_base: LoadedBase, tmp_path: Path):
    """Written by hand: K = 2 prompts of one token, a linear retriever of width 2, mean embeddings centred, softplus of the cosine."""
    draw = torch.Generator().manual_seed(3)
    tensors = {
        "prompts": torch.randn(2, 1, 32, generator=draw),
        "retriever.centre": torch.randn(32, generator=draw),
        "retriever.map.weight": torch.randn(2, 32, generator=draw),
        "retriever.map.bias": torch.randn(2, generator=draw),
    }
    config = {
        "peft_type": "SELECTIVE_PROMPT_TUNING",
        "format_version": 1,
        "sptune_version": "0.1.0",
        "base": {"id": "tiny", "revision": None, "embedding_sha256": tiny_base.backbone.embedding_hash()},
        "num_prompts": 2,
        "prompt_length": 1,
        "embedding_dim": 32,
        "retriever": {"kind": "linear", "hidden": 2, "activation": "softplus"},
        "template": {"kind": "paper", "source": None, "max_length": 512, "reserve": 64, "learn_stop": True},
        "stops": ["Q:"],
    }
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    model = SPTModel.from_pretrained(tmp_path, base=tiny_base)
    context = DIALOGUES[0].context(1)
    ids = torch.tensor(model.encoder.encode_context(context).input_ids)
    mean = tiny_base.backbone.embedding_table[ids].mean(0) - tensors["retriever.centre"]
    weight, bias = tensors["retriever.map.weight"], tensors["retriever.map.bias"]
    cosines = [
        torch.cosine_similarity(weight @ mean + bias, weight @ prompt[0] + bias, dim=0) for prompt in tensors["prompts"]
    ]
    wanted = torch.nn.functional.softplus(torch.stack(cosines), beta=10, threshold=1)
    torch.testing.assert_close(model.scores([context])[0], wanted, atol=1e-6, rtol=0)
    assert model.stops == ("Q:",)
    assert (model.retriever.reading, model.retriever.keys) == (Reading(), None)
    model.save_pretrained(tmp_path / "again")
    again = SPTModel.from_pretrained(tmp_path / "again", base=tiny_base)
    assert again.adapter().config.format_version == FORMAT_VERSION
    assert torch.equal(again.scores([context]), model.scores([context]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 33}, r"adapter_config\.json: retriever\.whiten: 33 exceeds the width of what is read, 32"),
        ({"input": "hidden"}, r"adapter_config\.json: retriever\.keys: retriever\.input=hidden"),
        ({"kind": "transformer", "rank": 2}, r"adapter_config\.json: retriever\.kind=transformer"),
        ({"rank": 5}, r"shape of retriever\.whitener is none, this model asks for \(32, 5\)"),
        ({"keys": True}, r"shape of retriever\.keys is none, this model asks for \(3, 32\)"),
    ],
)
def test_a_retriever_that_cannot_be_is_an_adapter_error(
    tiny_base: LoadedBase, tiny_model: Callable[..., SPTModel], tmp_path: Path, changes: dict[str, Any], message: str
):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    RetrieverConfig.model_validate(config["retriever"] | changes)  # each key alone is in its range
    config["retriever"] |= changes
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=message):
        SPTModel.from_pretrained(tmp_path, base=tiny_base)


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
