"""The context of a dialogue's turns, one after the other: each is made from the one before, not from the beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sptune.data.dialogue import Dialogue
from sptune.data.template import Template
from sptune.errors import DataError

Tokens = tuple[int, ...]
Tokenize = Callable[[str, bool], Tokens]
"""A piece of text, and whether it is the first of its context -> its tokens."""


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    ids: Tokens


class History:
    """The context of one turn of a dialogue, which goes on to the next turn and drops the oldest ones.

    It is a list of pieces that are tokenised on their own: what the template makes of the first turn that is kept, then by turns what was
    answered, and what the template adds up to the next answer. Where the template changes what it said before (it marks the last
    message, say), the text up to there becomes one piece.

    A turn costs one rendering of the template, and one that is dropped two, since the further pieces mostly stay as they are.

    Args:
        dialogue: as it is tokenised, without special tokens.
        template: renders a context.
        tokenize: makes tokens of a piece.
    """

    def __init__(self, dialogue: Dialogue, template: Template, tokenize: Tokenize) -> None:
        self.start = 0  # the first turn that is kept
        self._turn = -1
        self._dialogue, self._template, self._tokenize = dialogue, template, tokenize
        self._pieces: list[_Piece] = []

    @property
    def ids(self) -> Tokens:
        """The context's tokens."""
        return tuple(token for piece in self._pieces for token in piece.ids)

    def advance(self, budget: int) -> None:
        """Go on to the next turn, the first one at the beginning; then `shorten`.

        Raises:
            DataError: the template renders nothing.
        """
        self._turn += 1
        self._pieces = self._longer() if self._turn else self._pieces_of([self._render(0)])
        self.shorten(budget)
        if not self._length():
            raise DataError(
                f"dialogue {self._dialogue.id!r}: the template makes an empty text of turn {self._turn + 1}; "
                "let template.file render something"
            )

    def shorten(self, budget: int) -> None:
        """Drop the oldest turns while there are more tokens than `budget`; never the turn itself, which may have more alone."""
        while self._length() > budget and self.start < self._turn:
            self.start += 1
            self._pieces = self._without_oldest() or self._anew()

    def _length(self) -> int:
        return sum(len(piece.ids) for piece in self._pieces)

    def _longer(self) -> list[_Piece]:
        """The pieces, of a turn more than those that are there."""
        said, whole = self._said(self._turn - 1), self._render(self._turn)
        before = _text(self._pieces) + said
        if not whole.startswith(before):
            return self._pieces_of([whole])
        return [*self._pieces, self._piece(said), self._piece(whole[len(before) :])]

    def _without_oldest(self) -> list[_Piece] | None:
        """The pieces with a new first one, where the template makes just that of the turns that are left; else None."""
        kept = self._pieces[3:]  # the first is that of the turn that is dropped, its answer and the next turn's follow
        if len(kept) != 2 * (self._turn - self.start):  # several turns are one piece
            return None
        first = self._render(self.start)
        return [*self._pieces_of([first]), *kept] if first + _text(kept) == self._render(self._turn) else None

    def _anew(self) -> list[_Piece]:
        """The pieces from the template alone: from the last turn back, as far as each text is how the next one begins."""
        whole = self._render(self._turn)
        pieces: list[str] = []
        for turn in range(self._turn - 1, self.start - 1, -1):
            before, said = self._render(turn), self._said(turn)
            if not whole.startswith(before + said):
                break
            pieces += whole[len(before + said) :], said
            whole = before
        return self._pieces_of([whole, *reversed(pieces)])

    def _pieces_of(self, texts: Sequence[str]) -> list[_Piece]:
        return [_Piece(texts[0], self._tokenize(texts[0], True)), *map(self._piece, texts[1:])]

    def _piece(self, text: str) -> _Piece:
        return _Piece(text, self._tokenize(text, False))

    def _render(self, turn: int) -> str:
        """Text of the context of that turn, from the first that is kept."""
        turns = self._dialogue.turns
        return self._template.context(
            self._dialogue.persona, (*turns[self.start : turn], replace(turns[turn], response=None))
        )

    def _said(self, turn: int) -> str:
        return self._template.glue + (self._dialogue.turns[turn].response or "")


def _text(pieces: Sequence[_Piece]) -> str:
    return "".join(piece.text for piece in pieces)
