"""Generates a reply to every context of a data set, or chooses it among candidates; text metrics need nothing but these replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.errors import UsageError
from sptune.evaluation.batches import padded_batches, sharing_batches
from sptune.evaluation.metrics.bertscore import BertScore, Encoder, bertscores
from sptune.evaluation.metrics.profile import MetricReport, Reply, compute
from sptune.evaluation.rerank import RerankWeights, TurnCandidates, rerank
from sptune.model.sampling import draw_seed

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
        tokens: new tokens that were generated, before the cut.
        candidate: number of the candidate that was chosen, of the turn's line in `candidates.jsonl`; None without candidates.
        score: its score.
        bertscore: percent; None where no encoder was named.
        unfinished: whether it came to no end within `max_new_tokens`, neither by an end token nor at a stop; None in older files.
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
    candidate: int | None = None
    score: float | None = None
    bertscore: BertScore | None = None
    unfinished: bool | None = None


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C while replies were generated, or measured.

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
    """A reply to the context of every turn, by its chosen prompt or a mixture of prompts. The history is that of the data.

    The longest come first, so that too little memory is known at once; where contexts of one dialogue can share a run,
    they share a batch. Replies do not depend on the batches, but for rounding in bfloat16, and but for beam search that
    samples.

    Args:
        model: the model.
        turns: from `choose_prompts`.
        decoding: how tokens are chosen.
        token_budget: the most tokens of a batch: rows, prompts of a mixture and beams times virtual, context and new
            tokens.
        progress: called at the start and after every batch.

    Returns:
        The replies, in the order of `turns`.

    Raises:
        UsageError: a prompt, its context and the new tokens do not fit the base model's window.
        GenerationInterrupted: Ctrl-C.
    """
    check_room(model, turns, decoding)
    replies: dict[int, Generation] = {}
    try:
        if progress:
            progress("generation", 0, len(turns))
        for members in _batches(model, turns, decoding, token_budget):
            made = _reply(model, [turns[n] for n in members], decoding)
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


def chosen_reply(turn: TurnCandidates, weights: RerankWeights) -> Generation:
    """The best of a turn's candidates. A prompt that spoke alone is named; for a mixture, the one that the rule chose."""
    choice = rerank(turn, weights)
    best = turn.candidates[choice.index]
    return Generation(
        dialogue=turn.dialogue,
        turn=turn.turn,
        persona=turn.persona,
        user=turn.user,
        prediction=best.text,
        reference=turn.reference,
        prompt=turn.prompt if best.prompt is None else best.prompt,
        scores=turn.scores,
        margin=turn.margin,
        tokens=best.generated,
        candidate=choice.index,
        score=choice.score,
        unfinished=best.unfinished,
    )


def is_unfinished(model: SPTModel, tokens: Sequence[int], most: int) -> bool:
    """Whether a reply of these new tokens was cut at `most`. Generation goes on past stop texts, which end a reply all the same."""
    return len(tokens) >= most and not any(stop in model.decode(tokens) for stop in model.stops)


def measure(
    generations: Sequence[Generation], *, profile: str, bertscore_model: str | None = None, seed: int | None = 0
) -> MetricReport:
    """All text metrics of `generations`; see `metrics.profile.compute`."""
    replies = [Reply(one.prediction, one.reference, one.persona, one.dialogue, one.turn) for one in generations]
    return compute(replies, profile=profile, bertscore_model=bertscore_model, seed=seed)


def with_bertscore(generations: Sequence[Generation], encoder: Encoder) -> list[Generation]:
    """`generations` with the BERTScore of each, whose means are those of `measure`."""
    texts, references = [one.prediction for one in generations], [one.reference for one in generations]
    scores = bertscores(texts, references, encoder)
    return [replace(one, bertscore=score) for one, score in zip(generations, scores, strict=True)]


def _reply(model: SPTModel, turns: Sequence[ChosenTurn], decoding: Decoding) -> list[Generation]:
    from sptune.model.generate import generate_tokens, said_in, speaker

    contexts = [
        speaker(
            turn.context_ids,
            turn.selection,
            decoding.speakers(model.speakers),
            said=said_in(model, turn.dialogue.context(turn.span.turn)),
            seed=None if decoding.seed is None else draw_seed(decoding.seed, turn.dialogue.id, turn.span.turn),
        )
        for turn in turns
    ]
    made = generate_tokens(model, contexts, decoding=decoding)
    return [
        _generation(turn, model.text(tokens), len(tokens), is_unfinished(model, tokens, decoding.max_new_tokens))
        for turn, tokens in zip(turns, made, strict=True)
    ]


def _generation(turn: ChosenTurn, prediction: str, tokens: int, unfinished: bool) -> Generation:
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
        unfinished=unfinished,
    )


def _batches(model: SPTModel, turns: Sequence[ChosenTurn], decoding: Decoding, budget: int) -> Iterator[list[int]]:
    """Numbers of the turns in batches, long ones first."""
    from sptune.model.prefix import find_way

    length, new, count = model.prompts.length, decoding.max_new_tokens, model.prompts.count
    speakers = 1 if decoding.speakers(model.speakers).kind == "top1" else count
    if decoding.num_beams == 1 and find_way(model.backbone) == "packed":
        order = sorted(range(len(turns)), key=lambda n: -len(turns[n].sequence.input_ids))
        return sharing_batches(turns, order, runs=speakers, prompt=length, new=speakers * new, budget=budget)
    order = sorted(range(len(turns)), key=lambda n: -turns[n].span.context_length)
    return padded_batches(turns, order, rows=decoding.num_beams * speakers, room=length + new, budget=budget)
