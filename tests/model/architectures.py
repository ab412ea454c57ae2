"""One tiny random causal language model of each architecture that sptune is tested on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    BambaConfig,
    BloomConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    Llama4TextConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers import LlamaConfig as Llama

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**WIDTHS, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 512}
# Weights far from zero, so that a mistake shows in the logits.
WILD = {"initializer_range": 0.2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: Llama(**GROUPED, **WILD),
    "opt": lambda: OPTConfig(**WIDTHS, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=512, **_opt()),
    "opt-projected": lambda: OPTConfig(
        **WIDTHS, ffn_dim=48, word_embed_proj_dim=16, max_position_embeddings=512, do_layer_norm_before=False, **_opt()
    ),
    "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **WILD),
    "gpt-neox": lambda: GPTNeoXConfig(**WIDTHS, intermediate_size=48, max_position_embeddings=512, **WILD),
    "bloom": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=4, **WILD),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=8, **WILD),
    "gemma3": lambda: Gemma3TextConfig(
        **GROUPED, head_dim=8, sliding_window=16, layer_types=["sliding_attention", "full_attention"], **WILD
    ),
    "gemma3-pictures": lambda: Gemma3Config(
        text_config={
            **GROUPED,
            **WILD,
            "head_dim": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={**WIDTHS, "intermediate_size": 48, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=3,
        boi_token_index=4,
        eoi_token_index=5,
    ),
    "bamba": lambda: BambaConfig(
        **GROUPED,
        **WILD,
        attn_layer_indices=[1],
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=16,
    ),
    "llama4": lambda: Llama4TextConfig(
        **GROUPED,
        **WILD,
        head_dim=8,
        intermediate_size_mlp=48,
        num_local_experts=2,
        attention_chunk_size=16,
        layer_types=["chunked_attention", "full_attention"],
    ),
    "mpt": lambda: MptConfig(d_model=32, n_layers=2, n_heads=4, max_seq_len=512, **WILD),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=16, **WILD),
    "phi": lambda: PhiConfig(**GROUPED, **WILD),
}


def _opt() -> dict[str, object]:
    return {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5, "init_std": 0.2, "pad_token_id": 1}


def make_architecture(name: str, vocabulary: int) -> PreTrainedModel:
    """A random model of 2 layers over `vocabulary` tokens; its dropout, where it has any, is high."""
    config = CONFIGS[name]()
    config.get_text_config().vocab_size = vocabulary
    torch.manual_seed(3)
    model = Auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms, which start at 0 and 1
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model
