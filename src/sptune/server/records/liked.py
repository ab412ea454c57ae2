"""From rated replies to training dialogues: only what was liked is there to be learned, in the context it was liked in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sptune.data.dialogue import Dialogue, Turn, to_messages
from sptune.data.lines import clean
from sptune.data.messages import MESSAGES, parse_record
from sptune.data.problems import CODES, Report
from sptune.server.records.record import RatedReply

CUT = "cut off before its end, and training would learn to stop there"
DISPUTED = "disliked as often as liked"
REPEATED = "the same reply in the same context as another liked one"


@dataclass(frozen=True, slots=True)
class LikedDialogues:
    """What became of rated replies.

    Attributes:
        dialogues: to train on; each response to learn was liked in the context in which it stands, the others are history.
        responses: responses to learn.
        history: responses that are only history: not liked, or learned in another dialogue that begins alike.
        liked: replies that were liked.
        disliked: replies that were disliked.
        left_out: reason -> liked replies that are not in `dialogues`.
    """

    dialogues: tuple[Dialogue, ...]
    responses: int
    history: int
    liked: int
    disliked: int
    left_out: Mapping[str, int]


def liked_dialogues(rated: Iterable[RatedReply], *, include_cut: bool = False) -> LikedDialogues:
    """The liked replies as dialogues: persona, the history up to the reply, and the reply as a response.

    Liked replies of one talk (the same persona, and the one's history goes on from the other) become one dialogue. Replies are compared by
    what they say, not by who asked: the same reply in the same context counts once, and is left out when it is disliked as often as liked.

    Args:
        rated: replies with their ratings.
        include_cut: take replies that did not end by themselves too.
    """
    replies = [replace(reply, dialogue=_tidy(reply.dialogue)) for reply in rated]
    votes: Counter[Dialogue] = Counter()
    for reply in replies:
        votes[_unnamed(reply.dialogue)] += reply.rating
    kept: dict[Dialogue, Dialogue] = {}
    left_out: Counter[str] = Counter()
    liked = [reply for reply in replies if reply.rating > 0]
    for reply in liked:
        said = _unnamed(reply.dialogue)
        if reason := _fault(reply, votes[said], include_cut) or (REPEATED if said in kept else None):
            left_out[reason] += 1
        else:
            kept[said] = reply.dialogue
    dialogues = tuple(_joined(kept))
    history = sum(len(talk.turns) for talk in dialogues) - len(kept)
    return LikedDialogues(dialogues, len(kept), history, len(liked), len(replies) - len(liked), dict(left_out))


def _joined(talks: Mapping[Dialogue, Dialogue]) -> Iterator[Dialogue]:
    """The talks that no other one goes on from, in their order; the last response of each of `talks` is learned in the first that holds it."""
    begun = {part for said in talks for part in _parts(said) if part != said}
    learned: set[Dialogue] = set()
    for said, talk in talks.items():
        if said not in begun:
            marks = [part in talks and part not in learned for part in _parts(said)]
            learned.update(_parts(said))
            yield replace(talk, turns=tuple(replace(turn, learn=m) for turn, m in zip(said.turns, marks, strict=True)))


def _parts(talk: Dialogue) -> Iterator[Dialogue]:
    """`talk` up to each of its responses, shortest first."""
    return (replace(talk, turns=talk.turns[:n]) for n in range(1, len(talk.turns) + 1))


def _fault(reply: RatedReply, votes: int, include_cut: bool) -> str | None:
    """Why a liked reply cannot be learned from; None where it can."""
    if reply.finish != "stop" and not include_cut:
        return CUT
    return DISPUTED if votes <= 0 else _misread(reply.dialogue)


def _misread(talk: Dialogue) -> str | None:
    """What the reader of training files would object to, or read otherwise than it was said."""
    report = Report("")
    draft = parse_record(to_messages(talk), 1, MESSAGES, report)
    said = tuple(replace(turn, line=None) for turn in draft.dialogue.turns)
    return None if not draft.faulty and said == talk.turns else CODES[report.problems()[0].code].meaning


def _tidy(talk: Dialogue) -> Dialogue:
    """As a training file can hold it: without control characters, and without space around texts."""
    persona = tuple(filter(None, map(_tidy_text, talk.persona)))
    turns = tuple(Turn(_tidy_text(turn.user), _tidy_text(turn.response or "")) for turn in talk.turns)
    return replace(talk, persona=persona, turns=turns)


def _tidy_text(text: str) -> str:
    return clean(text).strip()


def _unnamed(talk: Dialogue) -> Dialogue:
    return replace(talk, id="")
