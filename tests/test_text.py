"""Text functions: tokenisation rules, similarities on one scale, and where a reply ends."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from sptune import text as text_module
from sptune.errors import UsageError
from sptune.text import PAPER_STOPS, chrf, cut_reply, ngrams, sentence_bleu, token_jaccard, tokenize_words

HYPOTHESIS = "i have two grey cats and i sail at dawn ."
REFERENCE = "i have two old dogs and i sail at night ."


def test_docstring_examples_hold() -> None:
    assert doctest.testmod(text_module).failed == 0


def test_importing_it_is_light() -> None:
    heavy = "{'torch', 'transformers', 'sacrebleu', 'numpy'}"
    code = f"import sys, sptune.text; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("whitespace", ["An", "Apple's", "core,", "the", "theatre", "!"]),
        ("parlai", ["apple", "s", "core", "theatre"]),
        ("words", ["an", "apple's", "core", "the", "theatre"]),
    ],
)
def test_tokenisation_rules(rule: text_module.Rule, words: list[str]) -> None:
    assert tokenize_words("An Apple's core,\tthe theatre !", rule) == words


def test_parlai_rule_treats_every_ascii_punctuation_mark_as_a_space() -> None:
    assert tokenize_words("a-b_c[d]e\\f^g`h{i}j|k~l'm", "parlai") == list("bcdefghijklm")


def test_words_rule_sees_one_word_in_either_spelling() -> None:
    assert tokenize_words("DON\u2019T", "words") == tokenize_words("don't", "words") == ["don't"]
    assert tokenize_words("cafe\u0301", "words") == tokenize_words("café", "words") == ["café"]
    assert tokenize_words("Größe 日本 🙂", "words") == ["größe", "日本"]


def test_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"'spaces' is not one of whitespace, parlai, words"):
        tokenize_words("a", "spaces")  # type: ignore[arg-type]


def test_ngrams_of_short_and_repeated_text() -> None:
    assert ngrams(["no", "no", "no"], 2) == [("no", "no"), ("no", "no")]
    assert ngrams(["no"], 2) == []


def test_similarities_equal_the_library() -> None:
    expected = sacrebleu.sentence_bleu(HYPOTHESIS, [REFERENCE], use_effective_order=True).score
    assert sentence_bleu(HYPOTHESIS, REFERENCE) == pytest.approx(expected, abs=1e-6)
    assert chrf(HYPOTHESIS, REFERENCE) == pytest.approx(
        sacrebleu.sentence_chrf(HYPOTHESIS, [REFERENCE]).score, abs=1e-6
    )


def test_effective_order_lets_short_texts_be_similar() -> None:
    """Two words: BLEU over orders 1 and 2 only, sqrt(2/2 * 1/1) = 1; over four orders it would be undefined."""
    assert sentence_bleu("i sail", "i sail") == pytest.approx(100.0)


@pytest.mark.parametrize("similarity", [sentence_bleu, chrf, token_jaccard])
def test_similarities_share_a_scale(similarity) -> None:
    assert similarity(REFERENCE, REFERENCE) == pytest.approx(100.0)
    assert similarity("one two three", "vier fünf") < 20.0
    assert 20.0 < similarity(HYPOTHESIS, REFERENCE) < 80.0
    assert similarity("", REFERENCE) == similarity(REFERENCE, "") == similarity("", "") == 0.0


@given(st.text(), st.text())
def test_similarities_stay_in_range_for_any_text(first: str, second: str) -> None:
    for similarity in (sentence_bleu, chrf, token_jaccard):
        assert 0.0 <= similarity(first, second) <= 100.0
    assert token_jaccard(first, second) == token_jaccard(second, first)


def test_cut_reply_ends_at_the_first_stop() -> None:
    assert cut_reply(" i sail .\nQ: and you ? R: me too") == "i sail ."
    assert cut_reply("yes R: no\nmaybe") == "yes"
    assert cut_reply("at 7:30") == "at 7"
    assert cut_reply("R: i sail") == ""


def test_cut_reply_with_own_stops() -> None:
    assert cut_reply(" a:b\nc ", ()) == "a:b\nc"
    assert cut_reply("a:b</s>c", ("</s>",)) == "a:b"
    with pytest.raises(UsageError, match="stops"):
        cut_reply("abc", ("\n", ""))


@given(st.text())
def test_cut_reply_is_idempotent_and_leaves_no_stop(text: str) -> None:
    reply = cut_reply(text)
    assert cut_reply(reply) == reply
    assert not any(stop in reply for stop in PAPER_STOPS)
