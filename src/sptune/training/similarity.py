"""M(C_i, C_j): how similar two contexts are, on a scale of 0 to 100, for the contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from safetensors import SafetensorError
from torch import Tensor

from sptune.data.dialogue import Dialogue, persona_text
from sptune.errors import ModelError, RecipeError
from sptune.model.retriever import Contexts
from sptune.text import chrf, sentence_bleu, token_jaccard

if TYPE_CHECKING:
    from sptune.data.batch import TokenBatch
    from sptune.model.backbone import Backbone

SimilarityKind = Literal["persona_bleu", "context_bleu", "jaccard", "chrf", "embedding", "encoder"]
Measure = Callable[[str, str], float]  # two texts -> 0..100
Similarity = Callable[["TokenBatch"], Tensor]  # a batch of n examples -> (n, n) in 0..100


def make_similarity(kind: SimilarityKind, *, backbone: Backbone, encoder: str | None = None) -> Similarity:
    """The measure M.

    Args:
        kind: `persona_bleu` (published: sentence BLEU of the joined persona sentences), `context_bleu` (of the whole contexts), `jaccard` and
            `chrf` (of the personas), `embedding` (cosine of the contexts' mean word embeddings) or `encoder` (cosine of a sentence encoder's
            mean-pooled persona embeddings). Cosines below 0 count as 0.
        backbone: whose word embeddings `embedding` compares.
        encoder: folder or hub id of the sentence encoder.

    Raises:
        RecipeError: `encoder` without one.
        ModelError: the sentence encoder cannot be loaded.
    """
    if kind == "embedding":
        return lambda batch: _cosine(_mean_embeddings(batch, backbone))
    if kind == "encoder":
        if encoder is None:
            raise RecipeError(
                "losses.contrastive.encoder: missing; similarity=encoder needs a sentence encoder's folder or hub id"
            )
        embed = sentence_encoder(encoder)
        return lambda batch: _cosine(torch.stack([embed(persona_text(dialogue)) for dialogue in batch.dialogues]))
    if kind == "context_bleu":
        return lambda batch: text_matrix(
            [context_text(dialogue, turn) for dialogue, turn in zip(batch.dialogues, batch.turns, strict=True)],
            sentence_bleu,
        )
    measures: dict[str, Measure] = {"persona_bleu": sentence_bleu, "jaccard": token_jaccard, "chrf": chrf}
    return lambda batch: text_matrix([persona_text(dialogue) for dialogue in batch.dialogues], measures[kind])


def text_matrix(texts: Sequence[str], measure: Measure) -> Tensor:
    """(n, n) symmetric matrix of `measure` over all pairs; each pair of different texts is measured once, first against second.

    Equal texts have 100, but for empty ones: contexts that say nothing are not known to be alike.

    Args:
        texts: n texts, equal ones are compared once.
        measure: hypothesis, reference -> 0..100.
    """
    distinct = list(dict.fromkeys(texts))
    table = torch.zeros(len(distinct), len(distinct))
    for i in range(len(distinct)):
        table[i, i] = 100.0 if distinct[i].strip() else 0.0
        for j in range(i + 1, len(distinct)):
            table[i, j] = table[j, i] = measure(distinct[i], distinct[j])
    place = torch.tensor([distinct.index(text) for text in texts])
    return table[place][:, place]


def context_text(dialogue: Dialogue, turn: int) -> str:
    """The words of a context: persona, history and the user's message, without any template."""
    history = [text for t in dialogue.turns[:turn] for text in (t.user, t.response or "")]
    return " ".join([*dialogue.given, *history, dialogue.turns[turn].user])


def different_dialogues(batch: TokenBatch) -> Tensor:
    """(n, n) True where two examples come from different dialogues."""
    ids = [dialogue.id for dialogue in batch.dialogues]
    place = torch.tensor([ids.index(name) for name in ids], device=batch.input_ids.device)
    return place[:, None] != place[None]


def _mean_embeddings(batch: TokenBatch, backbone: Backbone) -> Tensor:
    return Contexts(backbone.embed(batch.input_ids), batch.example_row, batch.context_length).means()


def _cosine(vectors: Tensor) -> Tensor:
    unit = F.normalize(vectors, dim=1)
    return 100 * (unit @ unit.T).clamp(0, 1)


def sentence_encoder(name: str) -> Callable[[str], Tensor]:
    """A function from a text to its vector: the mean last hidden state of the encoder in folder or hub id `name`."""
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"losses.contrastive.encoder: {name} cannot be loaded ({' '.join(str(error).split())[:200]}); give the folder of a "
            "sentence encoder, or a hub id that this machine can reach"
        ) from error
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    @lru_cache(maxsize=4096)
    @torch.no_grad()
    def embed(text: str) -> Tensor:
        if not text.strip():  # which is like nothing, another of its kind included
            return torch.zeros(model.config.hidden_size)
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
        mean: Tensor = model(**inputs).last_hidden_state[0].mean(0)
        return mean

    return embed
