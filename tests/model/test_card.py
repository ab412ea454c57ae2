"""The model card."""

from __future__ import annotations

from typing import Any

import yaml

from sptune.adapter import AdapterConfig, BaseConfig, DecodingConfig, RetrieverConfig, TemplateConfig
from sptune.model.card import model_card


def card_of(revision: str | None, decoding: DecodingConfig | None = None, **retriever: Any) -> str:
    return model_card(
        AdapterConfig(
            base=BaseConfig(id="some/base", revision=revision, embedding_sha256="ab" * 32),
            num_prompts=3,
            prompt_length=7,
            embedding_dim=576,
            retriever=RetrieverConfig(**{"kind": "mlp", "hidden": 12, "activation": "relu", **retriever}),
            template=TemplateConfig(kind="chat"),
            decoding=decoding or DecodingConfig(),
        )
    )


def test_the_card_says_what_the_adapter_is():
    card = card_of("v1.2")
    for text in ("some/base", "v1.2", "3 x 7 x 576", "mlp, relu", "chat", "ab" * 32):
        assert text in card
    assert "revision" not in card_of(None)


def test_the_card_says_what_the_retriever_reads_and_compares_with():
    assert "reads the mean word embedding of a context; compares with the prompts" in card_of(None)
    recent = card_of(None, input="recent", half_life=2.5, keys=True)
    assert "weights halved every 2.5 tokens towards the past; compares with keys of its own" in recent
    assert "reads the base model's last hidden state, whitened to 64 components" in card_of(
        None, input="hidden", rank=64
    )
    assert "reads the word embeddings of a context;" in card_of(None, kind="transformer")


def test_the_card_says_who_speaks():
    assert "| who speaks | the chosen prompt |" in card_of(None)
    assert "the average of their distributions |" in card_of(None, DecodingConfig(kind="fused"))
    assert "weighted by softmax(scores / 0.3) |" in card_of(None, DecodingConfig(kind="gated", gate_temperature=0.3))


def test_the_hub_can_read_its_head():
    head = yaml.safe_load(card_of(None).split("---")[1])
    assert head["base_model"] == "some/base"
    assert head["library_name"] == "sptune"


def test_the_example_runs(tiny_model, tiny_base, tmp_path, monkeypatch, capsys):
    import sptune.model.spt

    monkeypatch.setattr(sptune.model.spt, "load_base", lambda *_, **__: tiny_base)
    tiny_model().save_pretrained(tmp_path)
    code = (tmp_path / "README.md").read_text().split("```python")[1].split("```")[0]
    exec(code.replace("path/to/this/folder", str(tmp_path)), {})
    assert capsys.readouterr().out.endswith("\n")
