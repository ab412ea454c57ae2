"""One reply as it is kept: what it answered, who asked, and which prompt spoke."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sptune.data.dialogue import Dialogue

if TYPE_CHECKING:
    from sptune.model.selection import Selection

Finish = Literal["stop", "length", "cancelled"]
Rating = Literal[1, -1]


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One reply of the server, and what led to it.

    Attributes:
        completion_id: id of the completion, as the client got it.
        time: when it was asked for, in seconds since 1970 (UTC).
        model: name of the adapter, or of the bare base model, as `/v1/models` lists it.
        context: persona, history and the user message that waits for its response.
        reply: what was answered.
        finish: how the reply ended: by itself, at the length limit, or because the client went away.
        user: the client's own opaque id of the person who talks; None where it gives none.
        selection: the prompt that spoke, and all scores; None for the bare base model.
        prompt_tokens: tokens of the context.
        completion_tokens: tokens of the reply.
        choice: number of the reply among those of one completion (`n` > 1), from 0.
    """

    completion_id: str
    time: float
    model: str
    context: Dialogue
    reply: str
    finish: Finish
    user: str | None = None
    selection: Selection | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    choice: int = 0


@dataclass(frozen=True, slots=True)
class RatedReply:
    """A reply that somebody rated, as read from the records.

    Attributes:
        dialogue: the context and the reply; its id is that of the completion (`ID.CHOICE` for further choices).
        finish: how the reply ended.
        rating: 1 liked, -1 disliked.
    """

    dialogue: Dialogue
    finish: Finish
    rating: Rating
