"""Which training exchanges are like a context: by words (BM25) or by the direction of mean embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from sptune.errors import UsageError
from sptune.extras import how_to_get
from sptune.text import tokenize_words

if TYPE_CHECKING:
    from sptune.baselines.examples import Shelf
    from sptune.data.dialogue import Dialogue, Turn
    from sptune.model.load import LoadedBase

IndexKind = Literal["bm25", "dense"]
Embed = Callable[[str], Tensor]  # a text -> (D,)


class Index(Protocol):
    """Texts that can be searched."""

    def scores(self, query: str) -> np.ndarray:
        """(n,) how much each text is like `query`; more is more."""


class Bm25Index:
    """BM25 (Lucene's form, k1 = 1.5, b = 0.75) over lower-case words.

    Args:
        texts: n texts.

    Raises:
        UsageError: the package bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise UsageError(f"rag: bm25 needs the package bm25s; {how_to_get('compare')}, or use dense") from error
        self._size = len(texts)
        self._bm25 = bm25s.BM25()
        self._bm25.index([tokenize_words(text, "words") for text in texts], show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """(n,) BM25 scores, 0 for a text that shares no word."""
        words = tokenize_words(query, "words")
        found: np.ndarray = self._bm25.get_scores(words) if words else np.zeros(self._size, dtype=np.float32)
        return found


class DenseIndex:
    """Cosine of embeddings, after the mean over all texts is subtracted: what all texts share says nothing about any.

    Args:
        texts: n texts.
        embed: a text's embedding.
    """

    def __init__(self, texts: Sequence[str], *, embed: Embed) -> None:
        vectors = torch.stack([embed(text).float() for text in texts])  # (n, D)
        self._embed = embed
        self._mean = vectors.mean(0)
        self._vectors = F.normalize(vectors - self._mean, dim=1)

    def scores(self, query: str) -> np.ndarray:
        """(n,) cosines, -1..1."""
        vector = F.normalize(self._embed(query).float() - self._mean, dim=0)
        found: np.ndarray = (self._vectors @ vector).cpu().numpy()
        return found


def make_index(kind: IndexKind, texts: Sequence[str], *, base: LoadedBase, encoder: str | None = None) -> Index:
    """An index of texts.

    Args:
        kind: `bm25` or `dense`.
        texts: at least one.
        base: the model whose word embeddings `dense` averages.
        encoder: folder or hub id of a sentence encoder that `dense` takes in their place.

    Raises:
        UsageError: a package is not installed.
        ModelError: the sentence encoder cannot be loaded.
    """
    if kind == "bm25":
        return Bm25Index(texts)
    if encoder is None:
        return DenseIndex(texts, embed=word_embedding(base))
    from sptune.training.similarity import sentence_encoder

    return DenseIndex(texts, embed=sentence_encoder(encoder))


def word_embedding(base: LoadedBase) -> Embed:
    """A text's mean word embedding in the frozen model; zeros for a text without tokens."""

    def embed(text: str) -> Tensor:
        ids = base.tokenizer.encode(text, add_special_tokens=False)
        rows = base.backbone.embed(torch.tensor(ids, dtype=torch.long, device=base.backbone.device)).float()
        return rows.sum(0) / max(1, len(ids))  # (D,)

    return embed


class ExampleSearch:
    """The examples most like a context, never of the dialogue that the context is from.

    What is compared of both is the persona, the response before, and the user's message: never a response to it.

    Args:
        shelf: the examples.
        kind: how they are compared.
        base: see `make_index`.
        encoder: see `make_index`.
    """

    def __init__(self, shelf: Shelf, *, kind: IndexKind, base: LoadedBase, encoder: str | None = None) -> None:
        self._shelf = shelf
        texts = [query(one.dialogue.persona, one.dialogue.turns[: one.turn + 1]) for one in shelf.examples]
        self._index = make_index(kind, texts, base=base, encoder=encoder)
        self._find = lru_cache(maxsize=65_536)(self._search)

    def __call__(self, persona: Sequence[str], turns: Sequence[Turn]) -> str:
        """The text of the examples for a context."""
        return self._shelf.text(self.find(persona, turns))

    def find(self, persona: Sequence[str], turns: Sequence[Turn]) -> tuple[int, ...]:
        """Numbers of the examples for a context, the most similar first; of equals, the first in the data."""
        return self._find(tuple(persona), tuple((turn.user, turn.response) for turn in turns))

    def _search(self, persona: tuple[str, ...], said: tuple[tuple[str, str | None], ...]) -> tuple[int, ...]:
        scores = self._index.scores(_words(persona, said))
        order = np.argsort(-scores, kind="stable").tolist()
        others = (n for n in order if not holds(self._shelf.examples[n].dialogue, persona, said))
        return tuple(self._shelf.choose(others))


def query(persona: Sequence[str], turns: Sequence[Turn]) -> str:
    """What a context is compared by."""
    return _words(persona, [(turn.user, turn.response) for turn in turns])


def holds(dialogue: Dialogue, persona: Sequence[str], said: Sequence[tuple[str, str | None]]) -> bool:
    """Whether a context, as far as it goes, stands in `dialogue`: the same persona, and the same turns in a row.

    The context may lack its oldest turns; its last turn counts by the user's message alone.

    >>> from sptune.data.dialogue import Dialogue, Turn
    >>> talk = Dialogue("a", ("i sail .",), (Turn("hi", "hello"), Turn("and ?", "i sail")))
    >>> holds(talk, ("i sail .",), [("and ?", None)]), holds(talk, ("i sail .",), [("hi", "no"), ("and ?", None)])
    (True, False)
    """
    if dialogue.persona != tuple(persona):
        return False
    own = [(turn.user, turn.response) for turn in dialogue.turns]
    *before, (last, _) = said
    starts = range(len(own) - len(before))
    return any(own[i : i + len(before)] == before and own[i + len(before)][0] == last for i in starts)


def _words(persona: Sequence[str], said: Sequence[tuple[str, str | None]]) -> str:
    before = said[-2][1] or "" if len(said) > 1 else ""
    return " ".join([*persona, before, said[-1][0]])
