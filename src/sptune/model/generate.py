"""Generate replies for contexts that chose different prompts, in one call: [pad][prompt][context] on every row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sptune.errors import UsageError

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from sptune.model.spt import SPTModel


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: the most tokens of a reply (the paper's tables: 32).
        temperature: 0 is greedy; above it, sampling.
        top_p: nucleus probability, in sampling.
        num_beams: beam search with that many beams (the paper's interactive mode: 10).
        no_repeat_ngram_size: forbid repeating n-grams of that size within a reply; 0 is off (the interactive mode: 4).
        seed: of sampling; None draws from torch's current state.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    no_repeat_ngram_size: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no decoder takes."""
        checks = {
            "max_new_tokens": self.max_new_tokens >= 1,
            "temperature": self.temperature >= 0,
            "top_p": 0 < self.top_p <= 1,
            "num_beams": self.num_beams >= 1,
            "no_repeat_ngram_size": self.no_repeat_ngram_size >= 0,
        }
        for name, good in checks.items():
            if not good:
                raise UsageError(f"{name}: {getattr(self, name)} is out of range; see `sptune chat --help`")


@dataclass(frozen=True, slots=True)
class PromptedContext:
    """A context's tokens and the prompt to put in front of them.

    Attributes:
        input_ids: the context's tokens.
        prompt: number of the soft prompt, 0 .. K-1.
    """

    input_ids: Sequence[int]
    prompt: int


@torch.no_grad()
def generate_tokens(
    model: SPTModel,
    contexts: Sequence[PromptedContext],
    *,
    decoding: Decoding,
    streamer: BaseStreamer | None = None,
    stopping: Any = None,
) -> list[list[int]]:
    """New tokens for each context, without the stop token and what follows it.

    Args:
        model: the model.
        contexts: n contexts, each with its prompt; rows of one batch may use different prompts.
        decoding: how tokens are chosen.
        streamer: receives tokens as they come (one context only).
        stopping: a transformers `StoppingCriteriaList`.

    Returns:
        n lists of token ids.

    Raises:
        UsageError: a prompt, its context and the new tokens do not fit the base model's window.
    """
    inputs = left_padded(model, contexts)
    window = model.backbone.window
    needed = inputs.embeddings.shape[1] + decoding.max_new_tokens
    if window is not None and needed > window:
        raise UsageError(
            f"max_new_tokens: prompt, context and {decoding.max_new_tokens} new tokens need {needed} places, the base model's window is {window}; "
            "lower max_new_tokens or template.max_length"
        )
    stop = model.encoder.stop_id
    fallback = model.backbone.model.generation_config.eos_token_id
    ends = [stop] if stop is not None else ([fallback] if isinstance(fallback, int) else list(fallback or []))
    with warnings.catch_warnings(), _seeded(decoding.seed, inputs.embeddings.device):
        # n-grams of the reply alone are what `no_repeat_ngram_size` means here
        warnings.filterwarnings("ignore", message="Passing `no_repeat_ngram_size`")
        output = model.backbone.model.generate(
            inputs_embeds=inputs.embeddings,
            attention_mask=inputs.mask,
            streamer=streamer,
            stopping_criteria=stopping,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            **_options(decoding),
        )
    return [_until(row, ends) for row in output.tolist()]


@dataclass(frozen=True, slots=True)
class PaddedInputs:
    """Rows of [pad][prompt][context].

    Attributes:
        embeddings: (n, T, D).
        mask: (n, T) 0 at padding.
    """

    embeddings: Tensor
    mask: Tensor


def left_padded(model: SPTModel, contexts: Sequence[PromptedContext]) -> PaddedInputs:
    """Embeddings of every row, padded on the left outside the prompt."""
    device, length = model.backbone.device, model.prompts.length
    width = length + max(len(context.input_ids) for context in contexts)
    embeddings = model.backbone.embedding_table.new_zeros(len(contexts), width, model.backbone.embedding_dim)
    mask = torch.zeros(len(contexts), width, dtype=torch.long, device=device)
    for row, context in enumerate(contexts):
        first = width - length - len(context.input_ids)
        prompt = model.prompts.embeddings[context.prompt].to(embeddings.dtype)
        tokens = model.backbone.embed(torch.tensor([list(context.input_ids)], device=device))[0]
        embeddings[row, first:] = torch.cat([prompt, tokens])
        mask[row, first:] = 1
    return PaddedInputs(embeddings, mask)


def _options(decoding: Decoding) -> dict[str, Any]:
    sampling = decoding.temperature > 0
    options: dict[str, Any] = {
        "max_new_tokens": decoding.max_new_tokens,
        "num_beams": decoding.num_beams,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
        "do_sample": sampling,
        "top_k": 0 if sampling else None,
        "temperature": decoding.temperature if sampling else None,
        "top_p": decoding.top_p if sampling else None,
    }
    return options


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from `seed`, and leave torch's own random state as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    cut = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:cut]
