"""Generate replies for contexts that chose different prompts, or mixtures of them, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import torch

from sptune.errors import UsageError
from sptune.model.mixture import Mixture, Speakers, one_hot
from sptune.model.packed import generate_packed
from sptune.model.padded import Row, beam_search, generate_padded
from sptune.model.prefix import Prefixes, find_way
from sptune.model.sampling import draw_seed
from sptune.model.selection import Selection, SelectionRule
from sptune.model.streams import Rules, Speech, Stream, Tokens, end_tokens

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

    from sptune.data.dialogue import Dialogue
    from sptune.model.spt import SPTModel


# Field of `Decoding` -> what it may be, and that in words; comparisons with NaN are false.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda count: count >= 1, "at least 1"),
    "temperature": (lambda value: value >= 0, "0 or more"),
    "top_p": (lambda share: 0 < share <= 1, "above 0 and at most 1"),
    "num_beams": (lambda count: count >= 1, "at least 1"),
    "no_repeat_ngram_size": (lambda size: size >= 0, "0 or more"),
    "no_repeat_history_ngram": (lambda size: size >= 0, "0 or more"),
    "gate_temperature": (lambda value: value is None or value > 0, "above 0"),
}


def check_range(field: str, value: Any, *, option: str | None = None) -> None:
    """Refuse a value that no decoder takes.

    Args:
        field: of `Decoding`.
        value: its value.
        option: what the user knows it by; the field where None.

    Raises:
        UsageError: out of range; names the option and the range.

    >>> check_range("num_beams", 0, option="--beams")
    Traceback (most recent call last):
    sptune.errors.UsageError: --beams: 0 is out of range; give a number that is at least 1
    """
    good, allowed = RANGES.get(field, (lambda _: True, ""))
    if not good(value):
        raise UsageError(f"{option or field}: {value} is out of range; give a number that is {allowed}")


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
        no_repeat_history_ngram: forbid n-grams of that size that the speaker said earlier in the dialogue; 0 is off.
        kind: who speaks: the chosen prompt (`top1`), or at every token the average of the K distributions (`fused`),
            or their average weighted by the gate (`gated`); None: as the adapter is meant (`SPTModel.speakers`).
        gate_temperature: tau of the gate `pi_k = softmax_k(s_ik / tau)`; None: the adapter's own.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    no_repeat_ngram_size: int = 0
    seed: int | None = None
    no_repeat_history_ngram: int = 0
    kind: Mixture | None = None
    gate_temperature: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that no decoder takes."""
        for name in RANGES:
            check_range(name, getattr(self, name))
        if self.kind is not None and self.kind not in get_args(Mixture):
            raise UsageError(f"kind: {self.kind!r} is not one of {', '.join(get_args(Mixture))}")
        if self.num_beams > 1 and self.kind not in (None, "top1"):
            raise UsageError(f"num_beams: {self.num_beams} beams follow one prompt; use num_beams=1 with {self.kind}")

    def speakers(self, own: Speakers, *, rule: SelectionRule = "top1", forced: bool = False) -> Speakers:
        """Who speaks.

        Args:
            own: those of the adapter, which hold where nothing else is said.
            rule: how the prompt was chosen; unless a `kind` says otherwise, one that was drawn speaks alone.
            forced: the prompt was given; it speaks alone, and so does the one that beams follow.
        """
        meant = own.kind if rule == "top1" else "top1"
        kind = "top1" if forced or self.num_beams > 1 else self.kind or meant
        return Speakers(kind, self.gate_temperature or own.gate_temperature)

    def meant(self, own: Speakers, *, rule: SelectionRule = "top1", forced: bool = False) -> Decoding:
        """The same with who speaks filled in; see `speakers`."""
        return replace(self, **asdict(self.speakers(own, rule=rule, forced=forced)))


@dataclass(frozen=True, slots=True)
class PromptedContext:
    """A context's tokens and who speaks.

    Attributes:
        input_ids: the context's tokens.
        prompt: number of the soft prompt, 0 .. K-1.
        weights: K weights of the prompts in the mixture that speaks, which sum to 1; None where `prompt` speaks alone.
        said: tokens of the speaker's earlier responses, for `no_repeat_history_ngram`.
        seed: of this context's draws; None: made of the decoding's seed and the context's number.
    """

    input_ids: Sequence[int]
    prompt: int
    weights: tuple[float, ...] | None = None
    said: Sequence[Tokens] = ()
    seed: int | None = None


def speaker(
    input_ids: Sequence[int],
    selection: Selection,
    speakers: Speakers,
    *,
    said: Sequence[Tokens] = (),
    seed: int | None = None,
) -> PromptedContext:
    """A context as `speakers` answer it: the prompt that was chosen for it, or a mixture."""
    return PromptedContext(input_ids, selection.prompt, speakers.weights(selection), said, seed)


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
        contexts: n contexts, each with its prompt or mixture; they may differ.
        decoding: how tokens are chosen; its `kind` has done its part in the contexts (see `speaker`).
        streamer: receives tokens as they come (one context only).
        stopping: a transformers `StoppingCriteriaList`.

    Returns:
        n lists of token ids.

    Raises:
        UsageError: a prompt, its context and the new tokens do not fit the base model's window.
    """
    ids = [tuple(context.input_ids) for context in contexts]
    check_window(model, max(map(len, ids)), decoding.max_new_tokens)
    rules = rules_of(model, decoding)
    if decoding.num_beams > 1:
        rows = [Row(tokens, context.prompt) for tokens, context in zip(ids, contexts, strict=True)]
        said = [context.said for context in contexts]
        return beam_search(model, rows, decoding=decoding, said=said, stopping=stopping)
    seed = int(torch.randint(1 << 62, (1,))) if decoding.seed is None else decoding.seed
    streams = [
        Stream(
            number,
            context.weights or one_hot(context.prompt, model.prompts.count),
            decoding.temperature,
            draw_seed(seed, number) if context.seed is None else context.seed,
        )
        for number, context in enumerate(contexts)
    ]
    speech = Speech(streams, rules, [context.said for context in contexts])
    if streamer is None and stopping is None and (way := find_way(model.backbone)) == "packed":
        needed = [[k for k, weight in enumerate(stream.weights) if weight] for stream in streams]
        return generate_packed(model, Prefixes(model, ids, needed, way=way), speech)
    return generate_padded(model, ids, speech, streamer=streamer, stopping=stopping)


def said_in(model: SPTModel, context: Dialogue) -> list[Tokens]:
    """Tokens of what the speaker answered so far, as they follow a context."""
    return [model.encoder.response_ids(turn.response) for turn in context.turns if turn.response]


def rules_of(model: SPTModel, decoding: Decoding) -> Rules:
    """What `decoding` asks of every reply of that model."""
    return Rules(
        max_new_tokens=decoding.max_new_tokens,
        top_p=decoding.top_p,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        no_repeat_history_ngram=decoding.no_repeat_history_ngram,
        ends=end_tokens(model),
    )


def context_room(model: SPTModel, decoding: Decoding, places: int | None = None) -> int | None:
    """The most tokens of a context that leave room for a prompt and the longest reply; None where there is no limit.

    Args:
        model: which has a window, or not.
        decoding: says how long a reply can be.
        places: the most tokens of prompt, context and reply that whatever runs the model holds; None where it sets no limit.
    """
    limits = [limit for limit in (model.backbone.window, places) if limit is not None]
    return min(limits) - model.prompts.length - decoding.max_new_tokens if limits else None


def check_window(model: SPTModel, context: int, new: int) -> None:
    """Refuse replies that the base model's window has no room for.

    Args:
        model: the model.
        context: tokens of the longest context.
        new: the most tokens of a reply.

    Raises:
        UsageError: they do not fit behind a prompt.
    """
    needed, window = model.prompts.length + context + new, model.backbone.window
    if window is not None and needed > window:
        raise UsageError(
            f"max_new_tokens: prompt, context and {new} new tokens need {needed} places, the base model's window is {window}; "
            "lower max_new_tokens or template.max_length"
        )
