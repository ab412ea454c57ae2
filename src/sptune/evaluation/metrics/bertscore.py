"""BERTScore of replies against their references, by torchmetrics, with an encoder that is already on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from sptune.errors import ModelError

NOT_NAMED = "no encoder named; give a local folder or a downloaded hub id (the paper's: microsoft/deberta-xlarge-mnli)"
NOT_INSTALLED = "torchmetrics is not installed; get it with `pip install 'sptune[bertscore]'`"

# Hidden layer that agrees best with human judgement, as published by BERTScore's authors, by the model's last name.
TUNED_LAYERS = {"deberta-xlarge-mnli": 40}
_PARTS = ("precision", "recall", "f1")


@dataclass(frozen=True, slots=True)
class BertScore:
    """Of a reply, or means over the replies, in percent, 0..100."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Encoder:
    """A BERT-like encoder: transformers' model and tokenizer, and the hidden layer to read (None: the last).

    `scores` remembers what pairs of reply and reference have scored, for another decoding often says the same.
    """

    name: str
    model: Any
    tokenizer: Any
    layer: int | None
    max_length: int
    scores: dict[tuple[str, str], BertScore] = field(default_factory=dict, repr=False, compare=False)


def tuned_layer(name: str) -> int | None:
    """The hidden layer to read of the encoder `name` (a folder or hub id), or None for the last one."""
    return TUNED_LAYERS.get(PurePath(name).name)


def installed() -> bool:
    """Whether torchmetrics is here, which computes the score."""
    return find_spec("torchmetrics") is not None


def is_here(name: str) -> bool:
    """Whether `name` is a model's folder or a downloaded hub id, by its configuration alone: neither torch nor transformers is loaded."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return (Path(name) / "config.json").is_file()
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # no hub id
        return False


def not_here(name: str, why: str) -> ModelError:
    """What to say of an encoder that cannot be had."""
    return ModelError(
        f"BERTScore encoder: cannot load {name!r} from this machine ({why}); give a folder with "
        f"config.json, weights and tokenizer, or a hub id fetched once with `hf download`"
    )


@lru_cache(maxsize=1)
def load_encoder(name: str) -> Encoder:
    """Load a BERTScore encoder from a local folder or from the hub's cache, never from the network.

    The last one loaded is kept in memory.

    Args:
        name: folder with config, weights and tokenizer, or the hub id of a model downloaded before.

    Returns:
        The encoder, in float32, on the GPU where there is one.

    Raises:
        ModelError: it is not here, or its tokenizer adds no start and end token (BERTScore leaves those two out).
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
        model = AutoModel.from_pretrained(name, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise not_here(name, type(error).__name__) from error
    if tokenizer.num_special_tokens_to_add() != 2 or tokenizer.pad_token is None:
        raise ModelError(
            f"BERTScore encoder: the tokenizer of {name!r} does not add one start and one end token, or has no pad "
            "token; give an encoder of the BERT family"
        )
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    model = model.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    return Encoder(name, model, tokenizer, tuned_layer(name), min(positions, tokenizer.model_max_length))


def bertscore(predictions: Sequence[str], references: Sequence[str], encoder: Encoder) -> BertScore:
    """Means of `bertscores` over all replies, at least one; a pair with an empty text stays in the mean."""
    scores = bertscores(predictions, references, encoder)
    means = (math.fsum(getattr(one, part) for one in scores) / len(scores) for part in _PARTS)
    return BertScore(*means)


def bertscores(predictions: Sequence[str], references: Sequence[str], encoder: Encoder) -> list[BertScore]:
    """BERTScore of each reply: each token is matched with the most similar token of the other text, by cosine of their embeddings.

    Precision is the mean over the reply's tokens, recall over the reference's, F1 their harmonic mean; no idf weights,
    no baseline rescaling; a best match with a negative cosine counts 0. Source: Zhang et al. 2020; paper, metrics.

    Args:
        predictions: the replies.
        references: the gold responses, as many.
        encoder: see `load_encoder`. Texts beyond its window are cut.

    Returns:
        One score a reply; a pair with an empty text scores 0.
    """
    pairs = list(zip(predictions, references, strict=True))
    # torchmetrics sorts replies and references by length and does not restore the order (its issue 2728), so that in a
    # batch texts meet partners of other replies. One pair a call is right; equal pairs are scored once.
    for pair in pairs:
        if pair not in encoder.scores:
            encoder.scores[pair] = _score_pair(*pair, encoder)
    return [encoder.scores[pair] for pair in pairs]


def _score_pair(prediction: str, reference: str, encoder: Encoder) -> BertScore:
    from torchmetrics.functional.text.bert import bert_score

    if not prediction.strip() or not reference.strip():
        return BertScore(0.0, 0.0, 0.0)
    # torchmetrics pads both texts to `max_length`: keep it near their length, of which bytes are an upper bound
    longest = max(len(prediction.encode()), len(reference.encode())) + 8
    scores = bert_score(
        [prediction],
        [reference],
        model=encoder.model,
        user_tokenizer=encoder.tokenizer,
        num_layers=encoder.layer,
        max_length=min(encoder.max_length, longest),
        truncation=True,
        device=encoder.model.device,
    )
    values = (100.0 * float(scores[part]) for part in _PARTS)
    # a text of which the tokenizer keeps nothing has no mean
    return BertScore(*(0.0 if math.isnan(value) else value for value in values))
