"""Contexts that are run through the model only once, whatever comes behind them, and log-probabilities of candidates there.

`[prompt; tokens]` of a dialogue is run once with a key-value cache; every turn's context is a beginning of it. Then
come the candidates:

- `packed`: all in one row behind the context. A block mask lets each see the context and itself alone, and its
  positions begin where the context ends. No token is computed twice and nothing is padded.
- `repeated`: as a batch padded on the right, behind as many copies of the cache. For models that take no such mask,
  such as those with ALiBi.
- `separate`: as a batch of whole `[prompt; context; candidate]` sequences. For models whose cache holds less than every
  position (sliding windows, recurrent states).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sptune.model.backbone import Backbone
    from sptune.model.spt import SPTModel

Way = Literal["packed", "repeated", "separate"]
Tokens = Sequence[int]

_ROW_TOKENS, _BATCH_TOKENS = 2048, 8192

# What a model raises that does not take a 4-dimensional mask, or a cache.
_UNSUPPORTED = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError, AssertionError)
# The last candidate of the trial stands further off than a local attention window of 256.
_PROBE_CONTEXT, _PROBE_CANDIDATES, _PROBE_TOKENS = 16, 24, 14
_FOUND: WeakKeyDictionary[Backbone, Way] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Prefix:
    """`[prompt; tokens]` after one run.

    Attributes:
        embeddings: (T, D) what was run, virtual tokens included.
        states: (T, H) its last hidden states.
        cache: the key-value cache, or None where the model gives none that holds every position.
    """

    embeddings: Tensor
    states: Tensor
    cache: Any


def run_prefix(backbone: Backbone, embeddings: Tensor, *, way: Way) -> Prefix:
    """Run embeddings (T, D) of a prompt and tokens; keep the cache where `way` uses it and it holds every position."""
    if way == "separate":
        return Prefix(embeddings, backbone.hidden(embeddings[None])[0], None)
    output = _run(backbone, embeddings[None], start=0)
    cache = getattr(output, "past_key_values", None)
    states: Tensor = output.last_hidden_state[0]
    return Prefix(embeddings, states, cache if _holds(cache, len(embeddings)) else None)


class Prefixes:
    """`[SP_k; context]` of several contexts and prompts; a context that another one begins with is not run again.

    Args:
        model: the model.
        contexts: token ids of each context.
        prompts: for each context, the prompts that are needed.
        way: from `find_way`.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: SPTModel,
        contexts: Sequence[tuple[int, ...]],
        prompts: Sequence[Sequence[int]],
        *,
        way: Way,
    ) -> None:
        self._length = model.prompts.length
        self._contexts = contexts
        longest: list[tuple[int, ...]] = []
        self._host: dict[tuple[int, ...], tuple[int, ...]] = {}
        for ids in sorted(set(contexts), key=len, reverse=True):
            host = next((longer for longer in longest if longer[: len(ids)] == ids), ids)
            self._host[ids] = host
            if host is ids:
                longest.append(ids)
        wanted = dict.fromkeys((self._host[ids], k) for ids, own in zip(contexts, prompts, strict=True) for k in own)
        self._runs: Mapping[tuple[tuple[int, ...], int], Prefix] = {
            (ids, k): run_prefix(model.backbone, prompted(model, ids, prompt=k), way=way) for ids, k in wanted
        }

    def run(self, context: int, prompt: int) -> Prefix:
        """The run that begins with that prompt and context."""
        return self._runs[self._host[self._contexts[context]], prompt]

    def places(self, context: int) -> int:
        """Virtual tokens and tokens of that context."""
        return self._length + len(self._contexts[context])


def prompted(model: SPTModel, ids: Sequence[int], *, prompt: int | None) -> Tensor:
    """Embeddings (L + T, D) of a prompt and tokens, or of the tokens alone."""
    tokens = model.backbone.embed(torch.tensor(list(ids), dtype=torch.long, device=model.backbone.device))
    return tokens if prompt is None else torch.cat([model.prompts.embeddings[prompt].to(tokens.dtype), tokens])


def find_way(backbone: Backbone) -> Way:
    """The fastest way that gives this model's own numbers, found by trying each on made-up tokens, once a model."""
    if backbone not in _FOUND:
        _FOUND[backbone] = _try_ways(backbone)
    return _FOUND[backbone]


@torch.no_grad()
def _try_ways(backbone: Backbone) -> Way:
    ids = torch.arange(_PROBE_CONTEXT + _PROBE_CANDIDATES * _PROBE_TOKENS) * 37 % len(backbone.embedding_table)
    embeddings = backbone.embed(ids[:_PROBE_CONTEXT].to(backbone.device))
    rest = ids[_PROBE_CONTEXT:].tolist()
    candidates = [rest[i : i + _PROBE_TOKENS] for i in range(0, len(rest), _PROBE_TOKENS)]
    alone = _separate(backbone, run_prefix(backbone, embeddings, way="separate"), _PROBE_CONTEXT, candidates[-1:])
    wanted = backbone.head(alone[0]).float()
    tolerance = (1e-3 if backbone.dtype == torch.float32 else 0.05) * max(1.0, float(wanted.abs().max()))
    ways: tuple[Way, ...] = ("packed", "repeated")
    for way in ways:
        try:
            prefix = run_prefix(backbone, embeddings, way=way)
            if prefix.cache is None:
                break
            given = backbone.head(_STATES[way](backbone, prefix, _PROBE_CONTEXT, candidates)[-1]).float()
        except _UNSUPPORTED:
            continue
        if float((given - wanted).abs().max()) <= tolerance:
            return way
    return "separate"


@torch.no_grad()
def token_logprobs(
    backbone: Backbone,
    prefix: Prefix,
    candidates: Sequence[Tokens],
    *,
    context: int,
    stop_id: int | None,
    way: Way,
) -> list[Tensor]:
    """Log-probability of each token of each candidate after the first `context` places of `prefix`.

    Args:
        backbone: the frozen model.
        prefix: from `run_prefix`.
        candidates: c lists of token ids, without the stop token.
        context: places of the prefix that are the context, virtual tokens included.
        stop_id: the stop token; it counts as a candidate's last token. None where no stop is learned.
        way: from `find_way`; where the prefix has no cache, `separate` is taken.

    Returns:
        c tensors (m,) in double precision on the CPU, nats; m is 0 for a candidate without any token.
    """
    way = way if prefix.cache is not None else "separate"
    last = prefix.states[context - 1 : context]  # (1, H) predicts every candidate's first token
    found: list[Tensor] = []
    for part in _portions(candidates, context, way):
        # c' tensors (m, H): the state at each of a candidate's m tokens
        own = _STATES[way](backbone, prefix, context, part) if any(part) else [last[:0]] * len(part)
        targets = [[*ids] if stop_id is None else [*ids, stop_id] for ids in part]
        states = [torch.cat([last, rows])[: len(ids)] for rows, ids in zip(own, targets, strict=True)]
        flat = torch.tensor([token for ids in targets for token in ids], dtype=torch.long, device=backbone.device)
        logprobs = backbone.target_logprobs(torch.cat(states), flat).cpu().double()
        found += torch.split(logprobs, [len(ids) for ids in targets])
    return found


def _packed(backbone: Backbone, prefix: Prefix, context: int, candidates: Sequence[Tokens]) -> list[Tensor]:
    if not backbone.takes_position_ids:
        raise NotImplementedError("positions cannot be given")
    device = backbone.device
    lengths = [len(ids) for ids in candidates]
    block = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)  # (M,)
    positions = torch.cat([torch.arange(context, context + length) for length in lengths]).to(device)
    own = (block[:, None] == block) & (positions[:, None] >= positions)  # (M, M)
    seen = torch.cat([own.new_ones(len(block), context), own], dim=1)  # (M, context + M)
    mask = torch.where(seen, 0.0, torch.finfo(backbone.dtype).min).to(backbone.dtype)[None, None]
    ids = torch.tensor([[token for ids in candidates for token in ids]], device=device)
    cache = _copied(prefix.cache, context, rows=1)
    embeddings = backbone.embed(ids)
    output = _run(backbone, embeddings, positions=positions[None], past_key_values=cache, attention_mask=mask)
    return list(output.last_hidden_state[0].split(lengths))


def _repeated(backbone: Backbone, prefix: Prefix, context: int, candidates: Sequence[Tokens]) -> list[Tensor]:
    cache = _copied(prefix.cache, context, rows=len(candidates))
    output = _run(backbone, _padded(backbone, candidates), start=context, past_key_values=cache)
    return _unpadded(output.last_hidden_state, candidates)


def _separate(backbone: Backbone, prefix: Prefix, context: int, candidates: Sequence[Tokens]) -> list[Tensor]:
    before = prefix.embeddings[:context].expand(len(candidates), -1, -1)
    hidden = backbone.hidden(torch.cat([before, _padded(backbone, candidates)], dim=1))  # (c, context + M, H)
    return _unpadded(hidden[:, context:], candidates)


def _run(
    backbone: Backbone, embeddings: Tensor, *, start: int = 0, positions: Tensor | None = None, **arguments: Any
) -> Any:
    """The body's output, cache included, on embeddings (B, T, D) at `positions` (1, T), or from `start` on."""
    if backbone.takes_position_ids:
        if positions is None:
            positions = torch.arange(start, start + embeddings.shape[1], device=embeddings.device)[None]
        arguments["position_ids"] = positions
    return backbone.body(inputs_embeds=embeddings, use_cache=True, return_dict=True, **arguments)


def _holds(cache: Any, length: int) -> bool:
    """Whether a cache is made of nothing but the keys and values of every one of `length` positions."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    layers = cache.layers if type(cache) is DynamicCache else []
    return bool(layers) and all(type(layer) is DynamicLayer and layer.get_seq_length() == length for layer in layers)


def _copied(cache: Any, length: int, *, rows: int) -> Any:
    """A cache of its own of the first `length` positions, for `rows` sequences."""
    from transformers.cache_utils import DynamicCache

    copy = DynamicCache()
    for number, layer in enumerate(cache.layers):
        keys, values = layer.keys[:, :, :length], layer.values[:, :, :length]
        copy.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
    return copy


def _portions(candidates: Sequence[Tokens], context: int, way: Way) -> Iterator[Sequence[Tokens]]:
    """`candidates` in parts that fit memory: a block mask grows with the square of its row, copies with the context."""
    longest = max((len(ids) for ids in candidates), default=0) + 1
    size = max(1, _ROW_TOKENS // longest if way == "packed" else _BATCH_TOKENS // (context + longest))
    for start in range(0, len(candidates), size):
        yield candidates[start : start + size]


def _padded(backbone: Backbone, candidates: Sequence[Tokens]) -> Tensor:
    """(c, M, D) embeddings, padded on the right with those of token 0, which no real position sees."""
    ids = torch.zeros(len(candidates), max(map(len, candidates)), dtype=torch.long)
    for row, tokens in enumerate(candidates):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return backbone.embed(ids.to(backbone.device))


def _unpadded(hidden: Tensor, candidates: Sequence[Tokens]) -> list[Tensor]:
    return [row[: len(tokens)] for row, tokens in zip(hidden, candidates, strict=True)]


_STATES = {"packed": _packed, "repeated": _repeated, "separate": _separate}
