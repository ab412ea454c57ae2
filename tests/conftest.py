"""Fixtures of every test: a tokenizer, a base model and dialogues that are tiny, invented and made offline."""

from __future__ import annotations

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, which tests of Ctrl-C would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable
from functools import partial

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sptune.data.dialogue import Dialogue
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from tiny import CHAT_TEMPLATE, DIALOGUES, EOS, PAD, byte_level_tokenizer, tiny_llama, tiny_spt

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dialogues() -> tuple[Dialogue, ...]:
    """Four invented dialogues: an ordinary one, one in which the persona speaks first, one beyond ASCII, a long one."""
    return DIALOGUES


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with eos, pad and a chat template whose `<|open|>` and `<|close|>` are special but nameless."""
    tokenizer = byte_level_tokenizer(eos_token=EOS, pad_token=PAD)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def tiny_base(tiny_tokenizer: PreTrainedTokenizerFast) -> LoadedBase:
    """A tiny random Llama in float32 and the tiny tokenizer. Shared: tests do not change it."""
    return LoadedBase(Backbone(tiny_llama(len(tiny_tokenizer)), base="tiny"), tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_model(tiny_base: LoadedBase) -> Callable[..., SPTModel]:
    """`tiny.tiny_spt` on `tiny_base`: makes an untrained model of K = 3 prompts of L = 4 virtual tokens."""
    return partial(tiny_spt, tiny_base)
