"""Generates a reply to every context of a data set; text metrics need nothing but these replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.errors import UsageError
from sptune.evaluation.metrics.profile import MetricReport, Reply, compute

if TYPE_CHECKING:
    from sptune.evaluation.turns import ChosenTurn, Progress
    from sptune.model.generate import Decoding
    from sptune.model.spt import SPTModel


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated reply, with all that metrics need. A line of `generations.jsonl` is this object in JSON.

    Attributes:
        dialogue: id of its dialogue.
        turn: number of the turn in its dialogue, from 0.
        persona: the sentences about the speaker.
        user: the last message of the context.
        prediction: the generated reply, cut at the model's stops; may be empty.
        reference: the gold response.
        prompt: number of the prompt that spoke.
        scores: K scores of the prompts.
        margin: best score minus second best.
        tokens: new tokens that were generated, before the cut; `max_new_tokens` of them is a reply that came to no end.
    """

    dialogue: str
    turn: int
    persona: tuple[str, ...]
    user: str
    prediction: str
    reference: str
    prompt: int
    scores: tuple[float, ...]
    margin: float
    tokens: int


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C while replies were generated.

    Attributes:
        done: the replies that were finished, in the order of the data.
        total: how many there were to be.
        saved: where they were written, or None.
    """

    def __init__(self, done: Sequence[Generation], total: int, saved: Path | None = None) -> None:
        super().__init__(f"interrupted after {len(done)} of {total} replies")
        self.done = tuple(done)
        self.total = total
        self.saved = saved


def generate_replies(
    model: SPTModel,
    turns: Sequence[ChosenTurn],
    *,
    decoding: Decoding,
    token_budget: int = 8192,
    progress: Progress | None = None,
) -> list[Generation]:
    """A reply to the context of every turn, under its chosen prompt. The history is that of the data.

    Contexts of similar length share a batch, the longest first, so that too little memory is known at once. Greedy
    replies do not depend on the batches (but for rounding, in bfloat16); sampled ones do.

    Args:
        model: the model.
        turns: from `choose_prompts`.
        decoding: how tokens are chosen.
        token_budget: the most tokens of a batch: rows and beams times virtual, context and new tokens.
        progress: called at the start and after every batch.

    Returns:
        The replies, in the order of `turns`.

    Raises:
        UsageError: a prompt, its context and the new tokens do not fit the base model's window.
        GenerationInterrupted: Ctrl-C.
    """
    check_room(model, turns, decoding)
    order = sorted(range(len(turns)), key=lambda n: -turns[n].span.context_length)
    room = model.prompts.length + decoding.max_new_tokens
    replies: dict[int, Generation] = {}
    try:
        if progress:
            progress("generation", 0, len(turns))
        for members in _batches(order, turns, room=room, rows=decoding.num_beams, budget=token_budget):
            made = _reply(model, [turns[n] for n in members], _seeded(decoding, len(replies)))
            replies.update(zip(members, made, strict=True))
            if progress:
                progress("generation", len(replies), len(turns))
    except KeyboardInterrupt as stop:
        raise GenerationInterrupted([replies[n] for n in sorted(replies)], len(turns)) from stop
    return [replies[n] for n in range(len(turns))]


def check_room(model: SPTModel, turns: Sequence[ChosenTurn], decoding: Decoding) -> None:
    """Refuse, before an hour of other work, replies that the base model's window has no room for.

    Raises:
        UsageError: a prompt, its context and the new tokens do not fit.
    """
    longest = max(turns, key=lambda turn: turn.span.context_length)
    needed = model.prompts.length + longest.span.context_length + decoding.max_new_tokens
    window = model.backbone.window
    if window is not None and needed > window:
        raise UsageError(
            f"max_new_tokens: dialogue {longest.dialogue.id!r}, turn {longest.span.turn} needs {needed} places for "
            f"prompt, context and {decoding.max_new_tokens} new tokens, the base model's window is {window}; "
            "lower max_new_tokens"
        )


def measure(
    generations: Sequence[Generation], *, profile: str, bertscore_model: str | None = None, seed: int = 0
) -> MetricReport:
    """All text metrics of `generations`; see `metrics.profile.compute`."""
    replies = [Reply(one.prediction, one.reference, one.persona, one.dialogue, one.turn) for one in generations]
    return compute(replies, profile=profile, bertscore_model=bertscore_model, seed=seed)


def _reply(model: SPTModel, turns: Sequence[ChosenTurn], decoding: Decoding) -> list[Generation]:
    from sptune.model.generate import PromptedContext, generate_tokens

    contexts = [PromptedContext(turn.context_ids, turn.selection.prompt) for turn in turns]
    made = generate_tokens(model, contexts, decoding=decoding)
    return [_generation(turn, model.text(tokens), len(tokens)) for turn, tokens in zip(turns, made, strict=True)]


def _generation(turn: ChosenTurn, prediction: str, tokens: int) -> Generation:
    return Generation(
        dialogue=turn.dialogue.id,
        turn=turn.span.turn,
        persona=turn.dialogue.persona,
        user=turn.turn.user,
        prediction=prediction,
        reference=turn.turn.response or "",
        prompt=turn.selection.prompt,
        scores=turn.selection.scores,
        margin=turn.selection.margin,
        tokens=tokens,
    )


def _batches(
    order: Sequence[int], turns: Sequence[ChosenTurn], *, room: int, rows: int, budget: int
) -> Iterator[list[int]]:
    """`order`, the longest context first, in batches of at most `budget` tokens; a longer row is alone."""
    start = 0
    while start < len(order):
        size = max(1, budget // (rows * (room + turns[order[start]].span.context_length)))
        yield list(order[start : start + size])
        start += size


def _seeded(decoding: Decoding, done: int) -> Decoding:
    """Sampling draws other numbers in each batch."""
    return decoding if decoding.seed is None else replace(decoding, seed=decoding.seed + done)
