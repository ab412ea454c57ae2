"""Special tokens in users' text: none is left, however they are nested, and not even a hostile text takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptune.data.plain import PlainText

TOKENS = {
    "chat": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    "llama": ["<|eot_id|>", "<|begin_of_text|>", *(f"<|reserved_special_token_{n}|>" for n in range(251))],
    "sentencepiece": ["<s>", "</s>", "<unk>", "[INST]", "[/INST]"],
    "overlapping": ["ab", "abcd", "ba", "b", "cdab"],
    "spaced": ["< end >", " ", "!"],
    "of pattern signs": [".", "(a|b)", "\\d", "$"],
}


def holds_none(text: str, tokens: list[str]) -> bool:
    return not any(token in text for token in tokens)


@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
def test_no_token_is_left_wherever_it_is_split_and_however_deep_it_is_nested(tokens: list[str]) -> None:
    plain = PlainText(tokens)
    for token in tokens[:8]:
        for cut in range(len(token) + 1):
            for depth in (1, 2, 3, 7):
                for inner in ("", *tokens[:5]):
                    nested = token[:cut] * depth + inner + token[cut:] * depth
                    assert holds_none(plain(f"a {nested} z"), tokens)


@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
@given(data=st.data())
def test_no_token_is_left_in_any_text_of_parts_of_tokens(tokens: list[str], data: st.DataObject) -> None:
    parts = sorted(
        {part for token in tokens[:6] for cut in range(len(token) + 1) for part in (token[:cut], token[cut:])}
    )
    text = "".join(data.draw(st.lists(st.sampled_from([*parts, "x", " "]), max_size=30)))
    found = PlainText(tokens)(text)
    assert holds_none(found, tokens)
    assert PlainText(tokens)(found) == found


@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
def test_a_text_without_tokens_stays_and_one_with_whole_tokens_loses_just_them(tokens: list[str]) -> None:
    plain = PlainText(tokens)
    if holds_none("xyz", tokens):
        assert plain("xyz") == "xyz"
        assert plain(tokens[0].join("xyz")) == "xyz"


def test_without_tokens_only_white_space_and_half_surrogates_go() -> None:
    assert PlainText([])("\n i sail <s> \ud800\t") == "i sail <s> ?"


@pytest.mark.parametrize("text", ["<|im_" * 100_000 + "start|>" * 100_000, "<|" * 500_000, "<|im_start|" * 100_000])
def test_a_hostile_megabyte_takes_a_moment(text: str) -> None:
    plain = PlainText([*TOKENS["chat"], *TOKENS["llama"]])
    before = time.process_time()
    plain(text)
    assert time.process_time() - before < 2  # it is 0.1 s; it was minutes
