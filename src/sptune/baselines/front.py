"""A template with further text in front of each context: an instruction, examples of other dialogues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sptune.data.template import ChatTemplate, Template, TemplateKind
from sptune.errors import RecipeError

if TYPE_CHECKING:
    from sptune.data.dialogue import Turn
    from sptune.model.spt import SPTModel

Front = Callable[[Sequence[str], Sequence["Turn"]], str]
"""Persona and turns of a context -> the text in front of it; the last turn's response is never there."""


@dataclass(frozen=True, slots=True)
class FrontedTemplate:
    """Another template's contexts with a text in front; in a chat template it opens the system message.

    Attributes:
        template: renders the context itself.
        front: the text of each context; nothing is put in front where it is empty.
    """

    template: Template
    front: Front

    @property
    def kind(self) -> TemplateKind:
        """That of the template within."""
        return self.template.kind

    @property
    def glue(self) -> str:
        """That of the template within."""
        return self.template.glue

    @property
    def adds_special_tokens(self) -> bool:
        """That of the template within."""
        return self.template.adds_special_tokens

    @property
    def source(self) -> str | None:
        """The text of a Jinja template within."""
        source: str | None = getattr(self.template, "source", None)
        return source

    def context(self, persona: Sequence[str], turns: Sequence[Turn]) -> str:
        """Text of everything before the response to the last of `turns`.

        >>> from sptune.data.dialogue import Turn
        >>> from sptune.data.template import PaperTemplate
        >>> FrontedTemplate(PaperTemplate(), lambda persona, turns: "Be kind.").context(["i sail ."], [Turn("hi")])
        'Be kind.\\n\\ngiven persona: i sail .; context: Q: hi R:'
        """
        front = self.front(persona, turns)
        if front and isinstance(self.template, ChatTemplate):
            return self.template.context([f"{front}\n", *persona], turns)
        text = self.template.context(persona, turns)
        return f"{front}\n\n{text}" if front else text


def put_in_front(model: SPTModel, front: Front, *, tokens: int, max_length: int) -> None:
    """Let `model` read `front` before every context.

    The room for it comes on top of `max_length`, so that the history of a context has as much room as without it; what a front leaves
    of its room, as retrieved examples may, is the history's too.

    Args:
        model: its encoder is changed.
        front: the text of each context.
        tokens: the most tokens of such a text.
        max_length: `template.max_length` of the recipe.

    Raises:
        RecipeError: both together exceed the base model's window.
    """
    encoder = model.encoder
    if encoder.window is not None and max_length + tokens > encoder.window:
        raise RecipeError(
            f"template.max_length: {max_length} and {tokens} tokens for instruction and examples exceed the base model's "
            f"window of {encoder.window}; lower template.max_length to {max(16, encoder.window - tokens)}, or `examples`"
        )
    encoder.max_length = max_length + tokens
    encoder.template = FrontedTemplate(encoder.template, front)
