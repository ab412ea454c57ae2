"""Tiny things to test with, invented and made offline: dialogues, tokenizers, random base models."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sptune.data.batch import TokenBatch, collate
from sptune.data.dialogue import Dialogue, Turn
from sptune.data.encoder import DialogueEncoder
from sptune.data.template import make_template
from sptune.model.load import LoadedBase
from sptune.model.prompts import SoftPrompts, sample_rows
from sptune.model.retriever import Retriever
from sptune.model.spt import SPTModel

EOS, PAD, OPEN, CLOSE = "<|endoftext|>", "<|pad|>", "<|open|>", "<|close|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|open|>{{ message.role }}\n{{ message.content }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|open|>assistant\n{% endif %}"
)

# It marks the last message, so the rendering of n turns is no prefix of that of n + 1 turns.
MARKING_CHAT_TEMPLATE = CHAT_TEMPLATE.replace(
    "{{ message.role }}", "{{ message.role }}{% if loop.last %} now{% endif %}"
)

JINJA_TEMPLATE = (
    "I am: {% for sentence in persona %}{{ sentence }} {% endfor %}\n"
    "{% for turn in turns %}- {{ turn.user }}\n-"
    "{% if turn.response is not none %} {{ turn.response }}\n{% endif %}{% endfor %}"
)

DIALOGUES = (
    Dialogue(
        "sailor",
        ("i mend nets in the harbour .", "my sister plays the oboe ."),
        (
            Turn("hello there , who are you ?", "i mend nets down in the harbour .", line=4),
            Turn("is that hard work ?", "only in winter , when the ropes freeze .", line=5),
            Turn("do you sing ?", "no , my sister has the music .", line=6),
        ),
    ),
    Dialogue(
        "baker",
        ("i bake rye bread before dawn .",),
        (
            Turn("", "good morning ! the first loaves are out .", line=10),
            Turn("they smell wonderful .", "that is the caraway .", line=11),
        ),
    ),
    Dialogue(
        "poet",
        ("ich schreibe gedichte über möwen .", "私は海が好きです 。"),
        (Turn("wie heißt dein buch ?", "„der flügel“ – mit 🐦 auf dem umschlag .", line=14),),
    ),
    Dialogue(
        "archivist",
        ("i keep old maps .", "i walk to work .", "i never learned to swim ."),
        tuple(
            Turn(
                f"what about map number {n} ?",
                f"number {n} shows the coast as it was {n + 2} storms ago .",
                line=20 + n,
            )
            for n in range(7)
        ),
    ),
)


def training_texts() -> list[str]:
    """The invented dialogues' sentences, and the words of the templates."""
    texts = ["given persona: ; context: Q: R: Q: R: system user assistant"]
    return texts + [
        text for talk in DIALOGUES for turn in talk.turns for text in (*talk.persona, turn.user, turn.response or "")
    ]


def byte_level_tokenizer(special: tuple[str, ...] = (EOS, PAD, OPEN, CLOSE), **names: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE without a prefix of its own; any text survives it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def dummy_prefix_tokenizer(style: str = "metaspace") -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer, which puts a space in front of every text it is given, with `<s>` and `</s>`.

    Args:
        style: `metaspace` prepends in the pre-tokenizer, `prepend` in the normalizer (as the first Llama tokenizers).
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if style == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)]
        )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(training_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def tiny_llama(vocabulary: int, *, window: int = 1024, **settings: Any) -> LlamaForCausalLM:
    """A random Llama of 32 dimensions and 2 layers."""
    torch.manual_seed(1)
    defaults = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=window, **{**defaults, **settings})
    return LlamaForCausalLM(config)


def tiny_spt(
    base: LoadedBase,
    template: str = "paper",
    *,
    retriever: Retriever | str = "linear",
    source: str | None = None,
    count: int = 3,
    length: int = 4,
    **encoding: Any,
) -> SPTModel:
    """An untrained model of K = `count` prompts of L = `length` virtual tokens; `encoding` is the encoder's."""
    backbone = base.backbone
    prompts = sample_rows(backbone.vocabulary(), count=count, length=length, generator=torch.Generator().manual_seed(0))
    if isinstance(retriever, str):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            retriever = Retriever(retriever, dim=backbone.embedding_dim)
    encoder = DialogueEncoder(
        base.tokenizer,
        make_template(template, tokenizer=base.tokenizer, source=source),
        prompt_length=length,
        **{"window": backbone.window, **encoding},
    )
    return SPTModel(backbone, SoftPrompts(prompts), retriever, encoder)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *leaves])
        return result


def packed(model: SPTModel, dialogues: tuple[Dialogue, ...] = DIALOGUES) -> TokenBatch:
    """The batch of all turns of `dialogues`, as training packs them."""
    sequences = [sequence for dialogue in dialogues for sequence in model.encoder.encode(dialogue)]
    return collate(sequences, stop_id=model.encoder.stop_id)
