from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sptune.engine.reply_text import ReplyText
from sptune.model.token_text import TokenText
from sptune.text import PAPER_STOPS, cut_reply
from tiny import EOS, byte_level_tokenizer, dummy_prefix_tokenizer

TOKENIZERS = {
    "bytes": byte_level_tokenizer(eos_token=EOS),
    "metaspace": dummy_prefix_tokenizer(),
    "prepend": dummy_prefix_tokenizer("prepend"),
}
EVEN_STOPS = ("RE", "ER", " :")


def said(name: str, tokens: list[int], stops: tuple[str, ...], *, raw: bool = False) -> tuple[list[str], list[int]]:
    """What is shown token by token up to the end or a stop, and the tokens that were taken."""
    reply = ReplyText(TOKENIZERS[name], stops, raw=raw)
    shown: list[str] = []
    for number, token in enumerate(tokens):
        reply.add(token)
        if reply.stopped:
            return [*shown, reply.end()], tokens[: number + 1]
        shown.append(reply.grown())
    return [*shown, reply.end()], tokens


def decoded(name: str, tokens: list[int]) -> str:
    return TOKENIZERS[name].decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@given(
    name=st.sampled_from(list(TOKENIZERS)),
    tokens=st.lists(st.integers(0, 400), max_size=30),
    stops=st.sampled_from([(), PAPER_STOPS, EVEN_STOPS]),
)
def test_the_pieces_are_the_reply_and_no_stop_is_shown(name: str, tokens: list[int], stops: tuple[str, ...]) -> None:
    shown, taken = said(name, tokens, stops)
    assert "".join(shown) == cut_reply(decoded(name, taken), stops=stops)
    assert not any(stop in decoded(name, taken[:-1]) for stop in stops)


@given(name=st.sampled_from(list(TOKENIZERS)), text=st.text(max_size=20))
def test_any_text_that_survives_its_tokenizer_survives_the_pieces(name: str, text: str) -> None:
    tokens = TOKENIZERS[name].encode(text, add_special_tokens=False)
    shown, _ = said(name, tokens, ())
    assert "".join(shown) == decoded(name, tokens).strip()


@given(name=st.sampled_from(list(TOKENIZERS)), text=st.text(max_size=20))
@example(name="metaspace", text="the ropes freeze")
@example(name="prepend", text="  the  ropes")
def test_a_continuation_is_what_its_tokens_add_to_the_text(name: str, text: str) -> None:
    """The space in front of its first token too, which decoders drop where a text begins."""
    before = TOKENIZERS[name].encode("i mend nets in", add_special_tokens=False)
    tokens = TOKENIZERS[name].encode(text, add_special_tokens=False)
    shown, _ = said(name, tokens, (), raw=True)
    assert decoded(name, before) + "".join(shown) == decoded(name, before + tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_texts_of_tokens_are_the_text(name: str) -> None:
    before, *tokens = TOKENIZERS[name].encode("i mend nets in the harbour .", add_special_tokens=False)
    one = TokenText(TOKENIZERS[name])
    assert decoded(name, [before]) + "".join(map(one, tokens)) == "i mend nets in the harbour ."


def test_characters_are_shown_whole() -> None:
    tokens = TOKENIZERS["bytes"].encode("möwe 🐦!", add_special_tokens=False)
    shown, _ = said("bytes", tokens, ())
    assert "".join(shown) == "möwe 🐦!"
    assert len(tokens) > 8
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in shown)


@pytest.mark.parametrize(
    ("raw", "stops", "expected"),
    [(False, (), "a b"), (True, (), "\n a b  "), (True, ("b",), "\n a "), (False, ("b",), "a"), (True, ("\n",), "")],
)
def test_white_space_counts_where_a_text_is_continued(raw: bool, stops: tuple[str, ...], expected: str) -> None:
    tokens = TOKENIZERS["bytes"].encode("\n a b  ", add_special_tokens=False)
    assert "".join(said("bytes", tokens, stops, raw=raw)[0]) == expected
