"""A request made ready for a model: its tokens, the prompts that speak, and what ends the reply."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sptune.data.lines import clean
from sptune.errors import DataError, UsageError
from sptune.model.generate import check_window, context_room, said_in
from sptune.model.prefix import prompted
from sptune.model.selection import Selection, select, stay
from sptune.model.streams import Tokens, end_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.engine.loaded_adapter import LoadedAdapter
    from sptune.engine.serving import ServingRequest
    from sptune.model.generate import Decoding
    from sptune.model.spt import SPTModel


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that a model can run.

    Attributes:
        model: that answers; many share one base.
        ids: the context's tokens.
        selection: the prompt that was chosen, and all scores.
        weights: K weights of the prompts that speak, which sum to 1.
        selection_seconds: how long scoring took.
        decoding: how tokens are chosen.
        stops: texts that end the reply.
        ends: tokens that end the reply.
        said: tokens of the speaker's earlier responses, for `no_repeat_history_ngram`.
        raw: a text is continued, so that white space counts.
        logprobs: how many alternatives are wanted beside each token's log-probability; None where not even that.
    """

    model: SPTModel
    ids: Tokens
    selection: Selection
    weights: tuple[float, ...]
    selection_seconds: float
    decoding: Decoding
    stops: tuple[str, ...]
    ends: Tokens
    said: tuple[Tokens, ...]
    raw: bool
    logprobs: int | None

    @property
    def prompt_tokens(self) -> int:
        """Virtual tokens and context tokens."""
        return self.model.prompts.length + len(self.ids)

    @property
    def places(self) -> int:
        """The most tokens of prompt, context and reply together, of each prompt that speaks."""
        return self.prompt_tokens + self.decoding.max_new_tokens

    @property
    def speakers(self) -> tuple[int, ...]:
        """The prompts that have a weight: one, or all of a mixture."""
        return tuple(k for k, weight in enumerate(self.weights) if weight > 0)

    def embeddings(self, prompt: int | None = None) -> Tensor:
        """(L + T, D) a prompt, the chosen one where None, and the context, as the model reads them."""
        return prompted(self.model, self.ids, prompt=self.selection.prompt if prompt is None else prompt)


def prepare(
    request: ServingRequest, adapter: LoadedAdapter, *, room: Callable[[int], int | None] = lambda speakers: None
) -> Prepared:
    """Encode a request and choose its prompt.

    Args:
        request: what is asked for.
        adapter: the adapter it names, or the bare base model.
        room: the most tokens of prompt, context and reply that the engine holds for each of so many prompts that speak together; None
            where it sets no limit.

    Raises:
        UsageError: decoding that is not served, no such prompt, or a reply that does not fit the window.
        DataError: a text that is empty once control characters and halves of surrogate pairs are dropped, or a context that does not fit
            the window.
    """
    _refuse(request.decoding)
    model, decoding = adapter.model, request.decoding
    speakers = decoding.speakers(model.speakers, forced=request.prompt is not None)
    together = 1 if speakers.kind == "top1" else model.prompts.count
    places = room(together)
    ids = _encoded(request, adapter, room=context_room(model, decoding, places))
    check_window(model, len(ids), decoding.max_new_tokens)
    before = time.perf_counter()
    selection = choose(request, adapter, ids)
    prepared = Prepared(
        model=model,
        ids=ids,
        selection=selection,
        weights=speakers.weights(selection),
        selection_seconds=time.perf_counter() - before,
        decoding=decoding,
        stops=(*(model.stops if request.context else ()), *request.stop),
        ends=end_tokens(model),
        said=tuple(said_in(model, request.context)) if request.context else (),
        raw=request.context is None,
        logprobs=request.logprobs,
    )
    if places is not None and prepared.places > places:
        each = "" if together == 1 else f" for each of {together} prompts that speak together"
        raise UsageError(
            f"max_new_tokens: prompt, context and {decoding.max_new_tokens} new tokens need {prepared.places} places, this server "
            f"holds {places} for a request{each}; lower max_new_tokens or shorten the conversation"
        )
    return prepared


def selected(request: ServingRequest, adapter: LoadedAdapter) -> Selection:
    """The prompt that a request would be answered with.

    Raises:
        UsageError: no such prompt.
        DataError: an empty text, or a context that does not fit the window.
    """
    return choose(request, adapter, _encoded(request, adapter, room=context_room(adapter.model, request.decoding)))


def choose(request: ServingRequest, adapter: LoadedAdapter, ids: Tokens) -> Selection:
    """The prompt that answers a request of these tokens: the forced one, else the best, unless the turn before's is kept.

    Raises:
        UsageError: no such prompt.
    """
    scores = adapter.scores(ids)
    [chosen] = select(scores, prompt=request.prompt)
    if request.prompt is not None or request.previous is None:
        return chosen
    [before] = select(scores, prompt=request.previous)
    return stay(before, chosen, threshold=request.threshold)


def _encoded(request: ServingRequest, adapter: LoadedAdapter, *, room: int | None = None) -> Tokens:
    if request.context is None:
        return _text_ids(adapter.model, clean(request.text or ""))
    return adapter.model.encoder.encode_context(request.context, room=room).input_ids


def _refuse(decoding: Decoding) -> None:
    """Refuse decoding that cannot advance one token a step with others."""
    if decoding.num_beams > 1:
        raise UsageError(f"num_beams: {decoding.num_beams} beams are not served; use num_beams=1")


def _text_ids(model: SPTModel, text: str) -> Tokens:
    """Tokens of a text to be continued; what the tokenizer would put behind a finished text (`add_eos_token`) is left out."""
    if not text:
        raise DataError("text: empty; give the beginning of what is to be continued")
    tokenizer: Any = model.encoder.tokenizer
    plain = tokenizer.encode(text, add_special_tokens=False)
    whole = tokenizer.encode(text)
    start = next((i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain), 0)
    return (*whole[:start], *plain)
