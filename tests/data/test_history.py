"""Contexts that are carried on from turn to turn are those that are made from the beginning, and cost far less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sptune.baselines.front import FrontedTemplate
from sptune.data.dialogue import Dialogue, Turn
from sptune.data.encoder import DialogueEncoder
from sptune.data.template import Template, make_template
from tiny import CHAT_TEMPLATE, EOS, JINJA_TEMPLATE, MARKING_CHAT_TEMPLATE, PAD, byte_level_tokenizer

TOKENIZER = byte_level_tokenizer(eos_token=EOS, pad_token=PAD)
NUMBERED = "{% for turn in turns %}{{ loop.index }}. {{ turn.user }}\n- {{ turn.response or '' }}{% endfor %}"
SWITCHING = "{{ turns | length % 3 }}{{ persona | join }}{% for turn in turns %}{{ turn.user }}: {{ turn.response or '' }}{% endfor %}"
FIRST = "{{ turns[0].user | length }}{% for turn in turns %}\n{{ turn.user }}\n{{ turn.response or '' }}{% endfor %}"
IN_LAST = (  # as some models have it: the system message stands in the last user message
    "{% for m in messages %}{% if m.role == 'user' %}<|open|>{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n"
    "{% endif %}{{ m.content }}<|close|>{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
)


def template_of(name: str) -> Template:
    if name == "fronted":
        return FrontedTemplate(template_of("paper"), lambda persona, turns: "like " + turns[-1].user[:2])
    if name in ("paper", "chat"):
        return make_template(name, tokenizer=_with(CHAT_TEMPLATE))
    if name in ("marking", "in_last"):
        return make_template("chat", tokenizer=_with(MARKING_CHAT_TEMPLATE if name == "marking" else IN_LAST))
    source = {"jinja": JINJA_TEMPLATE, "numbered": NUMBERED, "switching": SWITCHING, "first": FIRST}[name]
    return make_template("jinja", tokenizer=TOKENIZER, source=source)


def _with(chat_template: str):
    tokenizer = byte_level_tokenizer(eos_token=EOS, pad_token=PAD)
    tokenizer.chat_template = chat_template
    return tokenizer


TEMPLATES = {
    name: template_of(name)
    for name in ("paper", "chat", "jinja", "marking", "in_last", "numbered", "switching", "first", "fronted")
}


def from_the_beginning(encoder: DialogueEncoder, dialogue: Dialogue) -> list[tuple[tuple[int, ...], int]]:
    """(tokens, turns dropped) of every turn's context: all is rendered again for every turn and every turn that is dropped."""
    dialogue = encoder.clean(dialogue)
    template, tokens = encoder.template, encoder._tokenize

    def context(start: int, n: int) -> tuple[int, ...]:
        text, ids = "", tuple[int, ...]()
        for m in range(start, n + 1):
            longer = template.context(
                dialogue.persona, (*dialogue.turns[start:m], replace(dialogue.turns[m], response=None))
            )
            ids = ids + tokens(longer[len(text) :]) if m > start and longer.startswith(text) else tokens(longer, True)
            said = template.glue + (dialogue.turns[m].response or "")
            if m < n:
                text, ids = longer + said, ids + tokens(said)
        return ids

    found, start = [], 0
    for n in range(len(dialogue.turns)):
        ids = context(start, n)
        while len(ids) > encoder.context_budget and start < n:
            start += 1
            ids = context(start, n)
        found.append((ids, start))
    return found


TEXTS = st.text("ab ,\n1é", max_size=12) | st.sampled_from(["what about the nets ?", "so " * 20, "Q: hi R:", EOS])
DIALOGUES = st.builds(
    Dialogue,
    st.just("d"),
    TEXTS.map(lambda sentence: ("i sail .", sentence)),
    st.lists(st.builds(Turn, TEXTS, TEXTS | st.none()), min_size=1, max_size=12).map(tuple),
)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@settings(deadline=None)
@given(dialogue=DIALOGUES, max_length=st.integers(8, 160), window=st.none() | st.integers(8, 160))
def test_contexts_are_those_that_are_made_from_the_beginning(
    template: Template, dialogue: Dialogue, max_length: int, window: int | None
) -> None:
    encoder = DialogueEncoder(TOKENIZER, template, max_length=max_length, reserve=4, window=window)
    expected = from_the_beginning(encoder, dialogue)
    assume(all(ids for ids, _ in expected))  # else the template renders nothing, which is refused
    assert [(context.input_ids, context.dropped_turns) for context in encoder.contexts(dialogue)] == expected
    roomy = DialogueEncoder(TOKENIZER, template, max_length=max_length, reserve=4)
    for n, (ids, dropped) in enumerate(expected if window is None else []):
        context = roomy.encode_context(dialogue.context(n))
        assert (context.input_ids, context.dropped_turns) == (ids, dropped)


@dataclass
class Counting:
    """A template that counts how often it renders, and how many turns."""

    template: Template
    calls: int = 0
    turns: int = 0
    kind: str = field(init=False)
    glue: str = field(init=False)
    adds_special_tokens: bool = field(init=False)

    def __post_init__(self) -> None:
        self.kind, self.glue = self.template.kind, self.template.glue
        self.adds_special_tokens = self.template.adds_special_tokens

    def context(self, persona: Sequence[str], turns: Sequence[Turn]) -> str:
        self.calls += 1
        self.turns += len(turns)
        return self.template.context(persona, turns)


@pytest.mark.parametrize("name", ["paper", "chat", "jinja", "marking", "in_last", "fronted"])
@pytest.mark.parametrize("max_length", [100_000, 1500, 300])
@pytest.mark.parametrize("last", ["and you ?", "so " * 400])
def test_a_long_dialogue_is_rendered_a_few_times_a_turn(name: str, max_length: int, last: str) -> None:
    template = Counting(TEMPLATES[name])
    encoder = DialogueEncoder(TOKENIZER, template, max_length=max_length)
    turns = (*(Turn(f"what about map {n} ?", f"number {n} shows the coast .") for n in range(127)), Turn(last))
    dropped = encoder.encode_context(Dialogue("d", ("i keep old maps .",), turns)).dropped_turns
    assert dropped > 0 or max_length > 1500
    assert template.calls <= len(turns) + 2 * dropped
    assert template.turns <= template.calls * 128
