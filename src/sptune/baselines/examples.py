"""Exchanges of training dialogues, shown as examples in a context."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.template import ChatTemplate
from sptune.errors import AdapterError, RecipeError
from sptune.files import write_text

if TYPE_CHECKING:
    from sptune.data.encoder import DialogueEncoder

EXAMPLES_NAME = "examples.json"
EXAMPLE_TOKENS = 128  # room kept for each example; one may take more where others take less

_DIALOGUES = TypeAdapter(tuple[Dialogue, ...])


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange.

    Attributes:
        dialogue: where it is from.
        turn: its number there.
    """

    dialogue: Dialogue
    turn: int

    @property
    def said(self) -> Turn:
        """The user's message and the response."""
        return self.dialogue.turns[self.turn]

    def alone(self) -> Dialogue:
        """A dialogue of this exchange only."""
        return replace(self.dialogue, turns=(self.said,))


class Shelf:
    """The exchanges of training dialogues, as text that fits into a context.

    Args:
        dialogues: where they are from. Those without a user's message or a response are left out.
        encoder: whose template, before anything is put in front of it, renders them, and whose tokenizer counts them.
        count: the most examples at a time.

    Raises:
        RecipeError: there is no exchange.
    """

    def __init__(self, dialogues: Sequence[Dialogue], *, encoder: DialogueEncoder, count: int) -> None:
        # without special tokens, as every context is: an example must not be able to end a turn
        self.dialogues = tuple(encoder.clean(dialogue) for dialogue in dialogues)
        self.examples = tuple(
            Example(talk, n)
            for talk in self.dialogues
            for n, turn in enumerate(talk.turns)
            if turn.user and turn.response and turn.learn
        )
        if not self.examples:
            raise RecipeError("examples: no training dialogue has a message with a response; give other data.train")
        self.count = count
        self.room = count * EXAMPLE_TOKENS
        self._template, self._tokenizer = encoder.template, encoder.tokenizer
        self._texts: dict[int, tuple[str, int]] = {}

    def choose(self, order: Iterable[int]) -> list[int]:
        """The first `count` numbers in `order` whose examples fit into the room together; one that does not fit is passed over."""
        chosen: list[int] = []
        left = self.room
        for number in order:
            tokens = self._text(number)[1]
            if tokens <= left:
                chosen.append(number)
                left -= tokens
            if len(chosen) == self.count:
                break
        return chosen

    def text(self, numbers: Sequence[int]) -> str:
        """The examples, the first of `numbers` last: next to the context."""
        return "\n\n".join(self._text(number)[0] for number in reversed(numbers))

    def _text(self, number: int) -> tuple[str, int]:
        """An example's text, and its tokens with what stands between it and the next."""
        if number not in self._texts:
            text = self._render(self.examples[number])
            self._texts[number] = text, len(self._tokenizer.encode(f"{text}\n\n", add_special_tokens=False))
        return self._texts[number]

    def _render(self, example: Example) -> str:
        persona, said, template = example.dialogue.persona, example.said, self._template
        if isinstance(template, ChatTemplate):  # its marks of a turn would end the system message
            return f"Persona: {' '.join(persona)}\nUser: {said.user}\nReply: {said.response}"
        return template.context(persona, [Turn(said.user)]) + template.glue + (said.response or "")


def shuffled(count: int, seed: int) -> Iterator[int]:
    """0 .. count-1 in an order that depends on the seed alone."""
    return iter(random.Random(seed).sample(range(count), count))


def save_examples(dialogues: Sequence[Dialogue], folder: Path) -> None:
    """Write `examples.json`.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_text(folder / EXAMPLES_NAME, _DIALOGUES.dump_json(tuple(dialogues), indent=1).decode())


def load_examples(folder: Path) -> tuple[Dialogue, ...]:
    """The dialogues that `save_examples` wrote.

    Raises:
        AdapterError: missing or damaged.
    """
    path = folder / EXAMPLES_NAME
    try:
        return _DIALOGUES.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise AdapterError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); fit the method again"
        ) from error
