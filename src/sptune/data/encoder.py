"""From a dialogue to tokens: the text of `template.py`, tokenised piece by piece so that turns share one sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.history import History
from sptune.data.plain import PlainText
from sptune.data.template import Template, check_not_empty, special_tokens, stop_token_id
from sptune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TurnSpan:
    """Where one turn stands in a token sequence. It is one training example.

    Attributes:
        turn: its number in the dialogue, from 0.
        context_length: the first `context_length` tokens of the sequence are its context C_i.
        response_end: tokens `context_length .. response_end` are its response R_i.
        response_bytes: length of the response in UTF-8 bytes, for bits per byte.
    """

    turn: int
    context_length: int
    response_end: int
    response_bytes: int


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One sequence of tokens (without virtual tokens) and the turns that are read from it.

    Attributes:
        dialogue: the dialogue it was made from.
        input_ids: T token ids.
        spans: the turns, oldest first.
    """

    dialogue: Dialogue
    input_ids: tuple[int, ...]
    spans: tuple[TurnSpan, ...]


@dataclass(frozen=True, slots=True)
class ContextTokens:
    """The tokens of one context.

    Attributes:
        input_ids: the context's tokens, up to where the response begins.
        dropped_turns: how many of the oldest turns did not fit.
    """

    input_ids: tuple[int, ...]
    dropped_turns: int


class DialogueEncoder:
    """Turns dialogues into tokens, the same way for training, evaluation and generation.

    Each piece of text (what stands before a response, the response, what stands before the next) is tokenised on its own, so that
    the context of a turn is, token for token, a prefix of the sequence that holds the later turns. Where a template or a dropped turn
    breaks that, a further sequence is begun: `encode` compares tokens and never assumes.

    Args:
        tokenizer: of the base model.
        template: renders a context.
        max_length: room for virtual tokens, context and the reserve for the response, in tokens. Older turns are dropped to keep it.
        prompt_length: L, the virtual tokens of a prompt.
        reserve: tokens kept free for the response. It does not depend on the response, so a context is cut the same way at inference.
        learn_stop: whether the end of a response is learned.
        window: the most tokens that the base model can take, or None.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        *,
        max_length: int = 512,
        prompt_length: int = 0,
        reserve: int = 64,
        learn_stop: bool = True,
        window: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.prompt_length = prompt_length
        self.reserve = reserve
        self.learn_stop = learn_stop
        self.window = window
        self.stop_id = stop_token_id(template, tokenizer) if learn_stop else None
        self._plain = PlainText(special_tokens(tokenizer))
        self._anchor = self._dummy_prefix_anchor()
        self._opening = self._opening_tokens()

    @property
    def context_budget(self) -> int:
        """The most tokens of a context before its oldest turns are dropped."""
        room = self.max_length if self.window is None else min(self.max_length, self.window)
        return room - self.prompt_length - self.reserve

    def encode(self, dialogue: Dialogue) -> tuple[TokenSequence, ...]:
        """All turns of `dialogue` that have a response to learn, in as few sequences as equality with one sequence per turn allows.

        Args:
            dialogue: with at least one turn.

        Returns:
            The sequences; usually one.

        Raises:
            DataError: no turn, or a persona, user message and response that together exceed the model's window.
        """
        check_not_empty(dialogue.id, dialogue.turns)
        sequences: list[TokenSequence] = []
        ids: tuple[int, ...] = ()
        spans: list[TurnSpan] = []
        for n, (turn, context) in enumerate(zip(dialogue.turns, self.contexts(dialogue), strict=True)):
            if turn.response is None or not turn.learn:
                continue
            if spans and context.input_ids[: len(ids)] != ids:
                sequences.append(TokenSequence(dialogue, ids, tuple(spans)))
                spans = []
            response = self._plain(turn.response)
            if not response:
                raise DataError(
                    f"dialogue {dialogue.id!r}{_place(turn)}: the response is empty; write one, or leave the turn out"
                )
            ids = context.input_ids + self._tokenize(self.template.glue + response)
            self._check_window(dialogue, turn, len(ids))
            spans.append(TurnSpan(n, len(context.input_ids), len(ids), len(response.encode())))
        if spans:
            sequences.append(TokenSequence(dialogue, ids, tuple(spans)))
        return tuple(sequences)

    def contexts(self, dialogue: Dialogue) -> Iterator[ContextTokens]:
        """The context of each turn of `dialogue`, oldest first; whether it fits the model's window is not asked.

        Raises:
            DataError: the template renders nothing.
        """
        history = self._history(dialogue)
        for _ in dialogue.turns:
            history.advance(self.context_budget)
            yield ContextTokens(history.ids, history.start)

    def encode_context(self, context: Dialogue, *, room: int | None = None) -> ContextTokens:
        """The tokens of a context: a dialogue whose last turn waits for its response.

        Args:
            context: with at least one turn.
            room: the most tokens that there is place for; where the context has more, further old turns are dropped. None: no limit but
                the encoder's own.

        Raises:
            DataError: no turn, or a persona and user message that leave no room for a response in the model's window.
        """
        check_not_empty(context.id, context.turns)
        history = self._history(context)
        for _ in context.turns:  # the same walk as `encode`, so that the same turns are dropped
            history.advance(self.context_budget)
        if room is not None:
            history.shorten(room)
        tokens = ContextTokens(history.ids, history.start)
        self._check_window(context, context.turns[-1], len(tokens.input_ids) + 1)
        return tokens

    def response_ids(self, response: str) -> tuple[int, ...]:
        """The tokens of a response as they follow a context, without the stop token."""
        return self._tokenize(self.template.glue + self._plain(response))

    def fits(self, tokens: int) -> bool:
        """Whether the base model's window has room for a prompt, so many tokens of context and response, and the stop."""
        return self.window is None or self._needed(tokens) <= self.window

    def _history(self, dialogue: Dialogue) -> History:
        return History(self.clean(dialogue), self.template, self._tokenize)

    def _tokenize(self, text: str, first: bool = False) -> tuple[int, ...]:
        """Tokens of a piece of text; the first piece of a context begins as the tokenizer begins a text."""
        if first:
            return (*self._opening, *self.tokenizer.encode(text, add_special_tokens=False))
        if not text:
            return ()
        ids = self.tokenizer.encode(self._anchor + text, add_special_tokens=False)
        return tuple(ids[self._anchor_length :])

    def _opening_tokens(self) -> tuple[int, ...]:
        """What the tokenizer puts in front of a text. What it would put behind one (`add_eos_token`) has no place before a response."""
        if self.template.adds_special_tokens:
            return ()
        plain, whole = self.tokenizer.encode("a", add_special_tokens=False), self.tokenizer.encode("a")
        return next((tuple(whole[:i]) for i in range(len(whole)) if whole[i : i + len(plain)] == plain), ())

    def _dummy_prefix_anchor(self) -> str:
        """A text to tokenise in front of a piece where the tokenizer would otherwise begin it with an invented space."""
        pieces = self.tokenizer.convert_ids_to_tokens(self.tokenizer.encode("a", add_special_tokens=False))
        anchor = "\n" if pieces and str(pieces[0]).startswith("▁") else ""  # SentencePiece's word-start mark
        self._anchor_length = len(self.tokenizer.encode(anchor, add_special_tokens=False)) if anchor else 0
        return anchor

    def clean(self, dialogue: Dialogue) -> Dialogue:
        """`dialogue` with every text as it is tokenised: stripped, and without special tokens; its persona is all that is given."""
        turns = tuple(
            Turn(
                self._plain(turn.user), None if turn.response is None else self._plain(turn.response), learn=turn.learn
            )
            for turn in dialogue.turns
        )
        return Dialogue(dialogue.id, tuple(map(self._plain, dialogue.given)), turns)

    def _check_window(self, dialogue: Dialogue, turn: Turn, tokens: int) -> None:
        if not self.fits(tokens):
            raise DataError(
                f"dialogue {dialogue.id!r}{_place(turn)}: prompt, context and response need {self._needed(tokens)} tokens, but the base "
                f"model's window is {self.window}; shorten them, raise template.reserve (older turns then make room) or lower "
                "prompts.length"
            )

    def _needed(self, tokens: int) -> int:
        return self.prompt_length + tokens + int(self.learn_stop)


def _place(turn: Turn) -> str:
    return f" (line {turn.line})" if turn.line else ""
