"""Templates: the only place that turns a dialogue into text, shared by training, evaluation and serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sptune.errors import DataError, ModelError, RecipeError
from sptune.text import PAPER_STOPS

if TYPE_CHECKING:
    import jinja2
    from transformers import PreTrainedTokenizerBase

    from sptune.data.dialogue import Turn

TemplateKind = Literal["paper", "chat", "jinja"]

_PROBE = "i sail the seven seas"  # what no chat template says by itself


class Template(Protocol):
    """Renders a context."""

    @property
    def kind(self) -> TemplateKind:
        """Its name in a recipe."""

    @property
    def glue(self) -> str:
        """What stands between the rendered context and the response."""

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the rendered text holds the tokenizer's special tokens already."""

    def context(self, persona: Sequence[str], turns: Sequence[Turn]) -> str:
        """Text of everything before the response to the last of `turns`; earlier turns have responses."""


@dataclass(frozen=True, slots=True)
class PaperTemplate:
    """The published form: `given persona: <sentences>; context: Q: <user> R: <response> ... Q: <user> R:`."""

    kind: TemplateKind = "paper"
    glue: str = " "
    adds_special_tokens: bool = False

    def context(self, persona: Sequence[str], turns: Sequence[Turn]) -> str:
        """Text of the context.

        >>> from sptune.data.dialogue import Turn
        >>> PaperTemplate().context(["i sail ."], [Turn("hi", "hello"), Turn("and ?")])
        'given persona: i sail .; context: Q: hi R: hello Q: and ? R:'
        """
        spoken = [
            f"Q: {turn.user}" if turn.response is None else f"Q: {turn.user} R: {turn.response}" for turn in turns[:-1]
        ]
        return " ".join([f"given persona: {' '.join(persona)}; context:", *spoken, f"Q: {turns[-1].user} R:"])


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The model's own chat template; the persona is the system message.

    Attributes:
        tokenizer: its `chat_template` renders the messages.
        takes_system: it has a system role, and says what a system message says; otherwise the persona opens the first user message.
        alternates: it wants a user message before every response, so that a silent user's is there and empty.
    """

    tokenizer: PreTrainedTokenizerBase
    kind: TemplateKind = "chat"
    glue: str = ""
    adds_special_tokens: bool = True
    takes_system: bool = True
    alternates: bool = False

    @classmethod
    def probed(cls, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        """The one for a tokenizer, which is found out by trial: what a chat template refuses or leaves out shows only when it does."""
        plain = cls(tokenizer)
        system, silent, user, answer = (
            {"role": role, "content": text}
            for role, text in (("system", _PROBE), ("user", ""), ("user", "b"), ("assistant", "c"))
        )
        takes_system = plain._takes(system, user, shown=_PROBE) or not plain._takes(user)
        answer_first = plain._takes(answer, user) or plain._takes(system, answer, user)
        return cls(
            tokenizer, takes_system=takes_system, alternates=not answer_first and plain._takes(silent, answer, user)
        )

    def context(self, persona: Sequence[str], turns: Sequence[Turn]) -> str:
        """Text of the context, up to and including the generation prompt."""
        return self._render(self._messages(persona, turns), generate=True)

    def stop_text(self) -> str:
        """What the template puts behind a finished response, e.g. `<|im_end|>` and a line break."""
        messages = [{"role": "user", "content": "a"}]
        before = self._render(messages, generate=True)
        whole = self._render([*messages, {"role": "assistant", "content": "b"}], generate=False)
        return whole[len(before) + 1 :] if whole.startswith(before + "b") else ""

    def _messages(self, persona: Sequence[str], turns: Sequence[Turn]) -> list[dict[str, str]]:
        opening = "\n".join(persona)
        messages = []
        if persona and self.takes_system:
            messages.append({"role": "system", "content": opening})
            opening = ""
        for turn in turns:
            said = "\n\n".join(filter(None, (opening, turn.user)))
            opening = ""
            if said or self.alternates:
                messages.append({"role": "user", "content": said})
            if turn.response is not None:
                messages.append({"role": "assistant", "content": turn.response})
        return messages or [{"role": "user", "content": ""}]  # nothing at all is no conversation

    def _takes(self, *messages: dict[str, str], shown: str = "") -> bool:
        """Whether these messages are rendered, and the text `shown` with them."""
        try:
            return shown in self._render(list(messages), generate=True)
        except ModelError:
            return False

    def _render(self, messages: list[dict[str, str]], *, generate: bool) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))
        except Exception as error:  # a chat template raises whatever its author chose
            raise ModelError(
                f"the model's chat template refused a dialogue: {error}; try template.kind=paper"
            ) from error


@dataclass(frozen=True, slots=True)
class JinjaTemplate:
    """A user's own Jinja template, rendered in a sandbox with `persona` (sentences) and `turns` (`.user`, `.response`).

    Attributes:
        source: the template's text; it must end where the response begins.
    """

    source: str
    kind: TemplateKind = "jinja"
    adds_special_tokens: bool = False

    @property
    def glue(self) -> str:
        """A space, unless the template itself ends with white space."""
        return "" if self.source[-1:].isspace() else " "

    def context(self, persona: Sequence[str], turns: Sequence[Turn]) -> str:
        """Text of the context.

        Raises:
            RecipeError: the template does not compile, fails, or asks for something that the sandbox forbids.
        """
        try:
            return _compile(self.source).render(persona=list(persona), turns=list(turns))
        except Exception as error:  # besides jinja2's own errors, whatever the template's expressions raise
            raise RecipeError(
                f"template.file: {error}; available: persona (sentences), turns (.user, .response)"
            ) from error


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(source)


def make_template(
    kind: TemplateKind, *, tokenizer: PreTrainedTokenizerBase, file: str | Path | None = None, source: str | None = None
) -> Template:
    """The template of that kind.

    Args:
        kind: `paper`, `chat` or `jinja`.
        tokenizer: of the base model; `chat` needs its chat template.
        file: the Jinja file of kind `jinja`.
        source: the Jinja text itself, where an adapter carries it.

    Raises:
        RecipeError: `jinja` without a readable file.
        ModelError: `chat` on a model without a chat template.
    """
    if kind == "paper":
        return PaperTemplate()
    if kind == "chat":
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError("template.kind=chat: this base model has no chat template; use template.kind=paper")
        return ChatTemplate.probed(tokenizer)
    if source is None:
        if file is None:
            raise RecipeError("template.file: missing; template.kind=jinja needs the path of a Jinja file")
        try:
            source = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"template.file: cannot read {file}: {error}") from error
    if not source.strip():
        raise RecipeError("template.file: the Jinja file is empty")
    return JinjaTemplate(source)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Every special token of the tokenizer and its id, those included that have no name such as `eos_token` (Llama 3's header marks)."""
    named = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return named | {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def default_stops(kind: TemplateKind) -> tuple[str, ...]:
    """The texts that end a reply under a template of that kind: the paper's for its own form, none elsewhere."""
    return PAPER_STOPS if kind == "paper" else ()


def stop_token_id(template: Template, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a response: the chat template's own where it has one, else the tokenizer's end of sequence.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token.
    """
    if isinstance(template, ChatTemplate):
        tail: list[int] = tokenizer.encode(template.stop_text(), add_special_tokens=False)
        if tail and tail[0] in special_tokens(tokenizer).values():
            return tail[0]
    eos: Any = tokenizer.eos_token_id
    if eos is None:
        raise ModelError(
            "the base model's tokenizer has no end-of-sequence token, so no stop can be learned; "
            "set template.learn_stop=false, or give the tokenizer an eos_token"
        )
    return int(eos)


def check_not_empty(dialogue_id: str, turns: Sequence[Turn]) -> None:
    """Refuse a dialogue that has nothing to encode.

    Raises:
        DataError: there is no turn.
    """
    if not turns:
        raise DataError(f"dialogue {dialogue_id!r} has no turns; add at least one user message")
