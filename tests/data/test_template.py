"""Templates: the text of a context, and which token ends a response."""

from __future__ import annotations

from pathlib import Path

import pytest

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.encoder import DialogueEncoder
from sptune.data.template import ChatTemplate, Template, check_not_empty, make_template, stop_token_id
from sptune.errors import DataError, ModelError, RecipeError
from tiny import (
    CHAT_TEMPLATE,
    CLOSE,
    DIALOGUES,
    EOS,
    JINJA_TEMPLATE,
    MARKING_CHAT_TEMPLATE,
    byte_level_tokenizer,
)

TURNS = (Turn("hi", "hello"), Turn("and you ?"))


def test_the_paper_template_is_the_published_form(tiny_tokenizer):
    template = make_template("paper", tokenizer=tiny_tokenizer)
    text = template.context(["i sail .", "i sing ."], TURNS)
    assert text == "given persona: i sail . i sing .; context: Q: hi R: hello Q: and you ? R:"
    assert template.glue == " "


def test_the_chat_template_puts_the_persona_in_the_system_message(tiny_tokenizer):
    text = make_template("chat", tokenizer=tiny_tokenizer).context(["i sail .", "i sing ."], TURNS)
    assert text == (
        "<|open|>system\ni sail .\ni sing .<|close|>\n<|open|>user\nhi<|close|>\n<|open|>assistant\nhello<|close|>\n"
        "<|open|>user\nand you ?<|close|>\n<|open|>assistant\n"
    )


def test_a_persona_that_speaks_first_has_no_empty_user_message(tiny_tokenizer):
    text = make_template("chat", tokenizer=tiny_tokenizer).context([], [Turn("", "morning !"), Turn("hi")])
    assert text == "<|open|>assistant\nmorning !<|close|>\n<|open|>user\nhi<|close|>\n<|open|>assistant\n"


# Chat templates that refuse what others take; the first two are those of well-known models in short.
ALTERNATING = (
    "{% for m in messages if m.role != 'system' %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DEAF = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"  # leaves system messages out
REFUSING = {
    "no system": NO_SYSTEM,
    "deaf": DEAF,
    "alternating": ALTERNATING,
    "neither": NO_SYSTEM + ALTERNATING,
}


def refusing(refusal: str) -> Template:
    tokenizer = byte_level_tokenizer(eos_token=EOS)
    tokenizer.chat_template = refusal + CHAT_TEMPLATE
    return make_template("chat", tokenizer=tokenizer)


def messages(*said: tuple[str, str]) -> str:
    written = "".join(f"<|open|>{role}\n{text}<|close|>\n" for role, text in said)
    return f"{written}<|open|>assistant\n"


PERSONA = ("i sail .", "i sing .")
SILENT = (Turn("", "morning !"), Turn("hi"))


@pytest.mark.parametrize("refusal", ["no system", "deaf", "neither"])
def test_a_persona_opens_the_first_user_message_where_there_is_no_system_role(refusal: str):
    template = refusing(REFUSING[refusal])
    said = (("user", "i sail .\ni sing .\n\nhi"), ("assistant", "hello"), ("user", "and you ?"))
    assert template.context(PERSONA, TURNS) == messages(*said)
    assert template.context([], TURNS) == messages(("user", "hi"), *said[1:])
    assert template.context(PERSONA, SILENT) == messages(
        ("user", "i sail .\ni sing ."), ("assistant", "morning !"), ("user", "hi")
    )


@pytest.mark.parametrize("refusal", ["alternating", "neither"])
def test_a_silent_user_has_an_empty_message_where_the_roles_must_alternate(refusal: str):
    template = refusing(REFUSING[refusal])
    said = (("user", ""), ("assistant", "morning !"), ("user", "hi"))
    assert template.context([], SILENT) == messages(*said)
    assert template.context([], [Turn("")]) == messages(*said[:1])
    if refusal == "alternating":
        assert template.context(PERSONA, SILENT) == messages(("system", "i sail .\ni sing ."), *said)


def test_a_template_without_system_role_that_takes_silence_keeps_it():
    silent = refusing(NO_SYSTEM).context([], SILENT)
    assert silent == messages(("assistant", "morning !"), ("user", "hi"))


def test_neither_persona_nor_message_is_an_empty_message(tiny_tokenizer):
    text = make_template("chat", tokenizer=tiny_tokenizer).context([], [Turn("")])
    assert text == messages(("user", ""))


@pytest.mark.parametrize("source", [CHAT_TEMPLATE, MARKING_CHAT_TEMPLATE])
def test_a_template_that_refuses_nothing_is_used_as_it_is(source: str):
    tokenizer = byte_level_tokenizer(eos_token=EOS)
    tokenizer.chat_template = source
    assert make_template("chat", tokenizer=tokenizer) == ChatTemplate(tokenizer)


@pytest.mark.parametrize("refusal", REFUSING)
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue.id)
def test_a_refusing_template_keeps_the_persona_when_old_turns_are_dropped(refusal: str, dialogue: Dialogue):
    template = refusing(REFUSING[refusal])
    tokenizer = template.tokenizer
    encoder = DialogueEncoder(tokenizer, template, max_length=180, reserve=40)
    for sequence in encoder.encode(dialogue):
        assert all(sentence in tokenizer.decode(sequence.input_ids) for sentence in dialogue.persona)


def test_a_jinja_file_is_rendered_with_persona_and_turns(tiny_tokenizer, tmp_path: Path):
    file = tmp_path / "own.jinja"
    file.write_text(JINJA_TEMPLATE, encoding="utf-8")
    template = make_template("jinja", tokenizer=tiny_tokenizer, file=file)
    assert template.context(["i sail ."], TURNS) == "I am: i sail . \n- hi\n- hello\n- and you ?\n-"
    assert template.glue == " "
    assert make_template("jinja", tokenizer=tiny_tokenizer, source="{{ turns[-1].user }}\n").glue == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% for turn in turns %}",
        "{{ nothing_of_that_name }}",
        "{{ 1 / 0 }}",
        "{{ persona + 1 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ persona.append('x') }}",
    ],
)
def test_a_jinja_template_that_fails_or_escapes_is_a_recipe_error(tiny_tokenizer, source: str):
    template = make_template("jinja", tokenizer=tiny_tokenizer, source=source)
    with pytest.raises(RecipeError, match=r"template\.file: .*persona"):
        template.context(["i sail ."], TURNS)


def test_jinja_needs_a_readable_file_with_text(tiny_tokenizer, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"template\.file: missing"):
        make_template("jinja", tokenizer=tiny_tokenizer)
    with pytest.raises(RecipeError, match=r"cannot read .*absent\.jinja"):
        make_template("jinja", tokenizer=tiny_tokenizer, file=tmp_path / "absent.jinja")
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"cannot read .*binary\.jinja"):
        make_template("jinja", tokenizer=tiny_tokenizer, file=tmp_path / "binary.jinja")
    with pytest.raises(RecipeError, match="empty"):
        make_template("jinja", tokenizer=tiny_tokenizer, source=" \n")


def test_chat_needs_a_chat_template():
    with pytest.raises(ModelError, match=r"template\.kind=chat.*template\.kind=paper"):
        make_template("chat", tokenizer=byte_level_tokenizer(eos_token=EOS))


def test_a_chat_template_that_refuses_is_a_model_error():
    tokenizer = byte_level_tokenizer(eos_token=EOS)
    tokenizer.chat_template = "{{ raise_exception('no system role here') }}"
    with pytest.raises(ModelError, match="no system role here"):
        make_template("chat", tokenizer=tokenizer).context(["i sail ."], TURNS)


def test_the_stop_is_the_chat_templates_own_end_of_message(tiny_tokenizer):
    paper, chat = (make_template(kind, tokenizer=tiny_tokenizer) for kind in ("paper", "chat"))
    assert stop_token_id(chat, tiny_tokenizer) == tiny_tokenizer.convert_tokens_to_ids(CLOSE)
    assert stop_token_id(paper, tiny_tokenizer) == tiny_tokenizer.eos_token_id


def test_a_chat_template_that_ends_messages_with_plain_text_stops_with_eos():
    tokenizer = byte_level_tokenizer(eos_token=EOS)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    assert stop_token_id(make_template("chat", tokenizer=tokenizer), tokenizer) == tokenizer.eos_token_id


def test_no_end_of_sequence_token_is_a_model_error():
    tokenizer = byte_level_tokenizer()
    with pytest.raises(ModelError, match=r"no end-of-sequence token.*learn_stop=false"):
        stop_token_id(make_template("paper", tokenizer=tokenizer), tokenizer)


def test_a_dialogue_without_turns_is_refused():
    empty = Dialogue("void", ("i sail .",), ())
    with pytest.raises(DataError, match="'void' has no turns"):
        check_not_empty(empty.id, empty.turns)
