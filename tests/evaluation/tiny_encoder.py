"""A tiny random encoder of the BERT family, to compute BERTScore with."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

_WORDS = [
    "i",
    "like",
    "to",
    "sail",
    "boats",
    "and",
    "cats",
    "my",
    "dog",
    "is",
    "old",
    ".",
    "we",
    "go",
    "out",
    "a",
    "lot",
    "hello",
]
_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]


def save_encoder(path: Path) -> Path:
    """Write the encoder to a folder; its window has 32 tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(_VOCABULARY), max_position_embeddings=32, **sizes)).save_pretrained(path)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(_VOCABULARY)}).save_pretrained(path)
    return path
