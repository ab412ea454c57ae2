"""Rows of [pad][prompt][context] through transformers' own `generate`: beam search, streaming, and every architecture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sptune.model.ngrams import completions
from sptune.model.seeding import seeded
from sptune.model.streams import Speech, Tokens, end_tokens

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from sptune.model.generate import Decoding
    from sptune.model.spt import SPTModel


@dataclass(frozen=True, slots=True)
class Row:
    """A context's tokens and the prompt in front of them."""

    input_ids: Sequence[int]
    prompt: int


@dataclass(frozen=True, slots=True)
class PaddedInputs:
    """Rows of [pad][prompt][context].

    Attributes:
        embeddings: (n, T, D).
        mask: (n, T) 0 at padding.
    """

    embeddings: Tensor
    mask: Tensor


def left_padded(model: SPTModel, rows: Sequence[Row]) -> PaddedInputs:
    """Embeddings of every row, padded on the left outside the prompt."""
    device, length = model.backbone.device, model.prompts.length
    width = length + max(len(row.input_ids) for row in rows)
    embeddings = model.backbone.embedding_table.new_zeros(len(rows), width, model.backbone.embedding_dim)
    mask = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    for number, row in enumerate(rows):
        first = width - length - len(row.input_ids)
        prompt = model.prompts.embeddings[row.prompt].to(embeddings.dtype)
        tokens = model.backbone.embed(torch.tensor([list(row.input_ids)], device=device))[0]
        embeddings[number, first:] = torch.cat([prompt, tokens])
        mask[number, first:] = 1
    return PaddedInputs(embeddings, mask)


def generate_padded(
    model: SPTModel,
    contexts: Sequence[Tokens],
    speech: Speech,
    *,
    streamer: BaseStreamer | None = None,
    stopping: Any = None,
) -> list[list[int]]:
    """The tokens of all streams of `speech`: a row for every stream and prompt of its mixture.

    Args:
        model: the model.
        contexts: token ids of each context.
        speech: the streams.
        streamer: receives tokens as they come (one stream only).
        stopping: a transformers `StoppingCriteriaList`; rows of one stream hold the same tokens.

    Returns:
        One list of token ids a stream, without the token that ended it.
    """
    entries = [
        (number, k, weight)
        for number, stream in enumerate(speech.streams)
        for k, weight in enumerate(stream.weights)
        if weight > 0
    ]
    rows = [Row(contexts[speech.streams[number].context], k) for number, k, _ in entries]
    place = model.backbone.device
    mixing = _Mixing(
        speech,
        stream=torch.tensor([number for number, *_ in entries], device=place),
        weight=torch.tensor([weight for *_, weight in entries], device=place),
    )
    output = _generate(
        model,
        rows,
        ends=speech.rules.ends,
        max_new_tokens=speech.rules.max_new_tokens,
        processor=mixing,
        streamer=streamer and _FirstRow(streamer),
        stopping_criteria=stopping,
        do_sample=False,
    )
    of_stream = {number: tokens for (number, *_), tokens in zip(entries, output, strict=True)}
    return [of_stream[number] for number in range(len(speech.streams))]


def beam_search(
    model: SPTModel, rows: Sequence[Row], *, decoding: Decoding, said: Sequence[Sequence[Tokens]], stopping: Any = None
) -> list[list[int]]:
    """New tokens of each row by beam search, without the token that ended it."""
    sampling = decoding.temperature > 0
    forbidding = _Forbidding(said, n=decoding.no_repeat_history_ngram, beams=decoding.num_beams)
    with warnings.catch_warnings(), seeded(decoding.seed):
        # n-grams of the reply alone are what `no_repeat_ngram_size` means here
        warnings.filterwarnings("ignore", message="Passing `no_repeat_ngram_size`")
        return _generate(
            model,
            rows,
            ends=end_tokens(model),
            max_new_tokens=decoding.max_new_tokens,
            num_beams=decoding.num_beams,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            processor=forbidding,
            stopping_criteria=stopping,
            do_sample=sampling,
            top_k=0 if sampling else None,
            temperature=decoding.temperature if sampling else None,
            top_p=decoding.top_p if sampling else None,
        )


def _generate(
    model: SPTModel,
    rows: Sequence[Row],
    *,
    ends: Tokens,
    processor: Callable[[Tensor, Tensor], Tensor],
    **options: Any,
) -> list[list[int]]:
    """New tokens of each row, up to the first that ends a reply."""
    from transformers import LogitsProcessorList

    inputs = left_padded(model, rows)
    output = model.backbone.model.generate(
        inputs_embeds=inputs.embeddings,
        attention_mask=inputs.mask,
        logits_processor=LogitsProcessorList([processor]),
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        **options,
    )
    return [list(takewhile(lambda token: token not in ends, row)) for row in output.tolist()]


class _Mixing:
    """Lets `speech` choose the next token of every row: rows of one stream get the same."""

    def __init__(self, speech: Speech, *, stream: Tensor, weight: Tensor) -> None:
        self._speech, self._stream, self._weight = speech, stream, weight

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (E, V) that leave one token a row; rows of ended streams are left to their padding."""
        going = torch.isin(self._stream, torch.tensor(self._speech.going, device=scores.device))
        stream = self._stream[going]
        tokens = self._speech.step(scores[going], stream=stream, weight=self._weight[going])
        end = next(iter(self._speech.rules.ends), 0)
        chosen = [tokens.get(number, end) for number in self._stream.tolist()]
        only = torch.full_like(scores, -torch.inf)
        only[torch.arange(len(chosen)), chosen] = 0.0
        return only


class _Forbidding:
    """Forbids n-grams that the speaker of a row said before."""

    def __init__(self, said: Sequence[Sequence[Tokens]], *, n: int, beams: int) -> None:
        self._said, self._n, self._beams = said, n, beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (n * beams, V) after the new tokens (n * beams, t)."""
        scores = scores.clone()
        for row, tokens in enumerate(input_ids.tolist()):
            scores[row, list(completions(tokens, self._said[row // self._beams], self._n))] = -torch.inf
        return scores


class _FirstRow:
    """Streams the first of several rows that hold the same tokens."""

    def __init__(self, streamer: BaseStreamer) -> None:
        self._streamer = streamer

    def put(self, value: Tensor) -> None:
        """Pass on the first row's token; before generation there is nothing to pass."""
        self._streamer.put(value[:1])

    def end(self) -> None:
        """The last token was put."""
        self._streamer.end()
