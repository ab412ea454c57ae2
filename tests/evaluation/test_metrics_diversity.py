"""DIST, expectation-adjusted DIST, entropy, repetition, unique replies and length."""

from __future__ import annotations

import doctest
import math
import random

import pytest

from sptune.evaluation.metrics import diversity, length
from sptune.evaluation.metrics.diversity import (
    distinct,
    expectation_adjusted_distinct,
    ngram_entropy,
    repetition,
    unique_share,
)
from sptune.evaluation.metrics.length import count_empty, mean_words

TEXTS = ["i sail my boat", "i sail every day", "no no no no no"]
EVERY = [
    lambda texts: distinct(texts, 1),
    lambda texts: distinct(texts, 2),
    lambda texts: expectation_adjusted_distinct(texts, 1),
    lambda texts: expectation_adjusted_distinct(texts, 2),
    ngram_entropy,
    repetition,
    unique_share,
    mean_words,
]


@pytest.mark.parametrize("module", [diversity, length])
def test_docstring_examples_hold(module) -> None:
    assert doctest.testmod(module).failed == 0


def test_distinct_by_hand() -> None:
    """Words: 4 + 4 + 5 = 13, distinct: i, sail, my, boat, every, day, no. Bigrams: 3 + 3 + 4 = 10, 6 distinct."""
    assert distinct(TEXTS, 1) == pytest.approx(100.0 * 7 / 13, abs=1e-6)
    assert distinct(TEXTS, 2) == pytest.approx(100.0 * 6 / 10, abs=1e-6)


def test_ngrams_do_not_cross_from_one_reply_to_the_next() -> None:
    assert distinct(["a b", "c d"], 2) == 100.0
    assert ngram_entropy(["a b", "c d"], 2) == pytest.approx(math.log(2))
    assert ngram_entropy(["a b", "c d"], 4) == 0.0


def test_expectation_adjusted_distinct_by_hand() -> None:
    """C = 13 draws from V = 100: 100 (1 - 0.99^13) = 12.247898 expected distinct words, 7 are."""
    expected = 100.0 * 7 / (100 * (1 - 0.99**13))
    assert expectation_adjusted_distinct(TEXTS, 1, vocabulary=100) == pytest.approx(expected, abs=1e-6)


def test_expectation_adjusted_distinct_tends_to_distinct_for_a_vast_vocabulary() -> None:
    assert expectation_adjusted_distinct(TEXTS, 1, vocabulary=10**12) == pytest.approx(distinct(TEXTS, 1), abs=1e-6)


def test_adjusting_takes_out_what_length_alone_does() -> None:
    """Uniform words: DIST falls as replies get longer although nothing about them changes; the adjusted form stays."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(2000)]
    short = [" ".join(rng.choices(words, k=4)) for _ in range(300)]
    long = [" ".join(rng.choices(words, k=16)) for _ in range(300)]
    assert distinct(short, 1) > 1.5 * distinct(long, 1)
    adjusted = [expectation_adjusted_distinct(texts, 1, vocabulary=2000) for texts in (short, long)]
    assert adjusted == pytest.approx([100.0, 100.0], abs=3.0)


def test_duplicates_lower_diversity() -> None:
    varied, dull = ["i sail my boat", "we run all day"], ["i sail my boat", "i sail my boat"]
    for metric in (*EVERY[:5], unique_share):
        assert metric(varied) > metric(dull)


def test_entropy_by_hand() -> None:
    """4-grams: two different ones, and "no no no no" twice: p = 1/4, 1/4, 2/4, so 2/4 ln 4 + 2/4 ln 2 nats."""
    assert ngram_entropy(TEXTS) == pytest.approx(0.5 * math.log(4) + 0.5 * math.log(2), abs=1e-6)


def test_repetition_by_hand() -> None:
    """The third reply has three 3-grams, all "no no no": 2/3 repeated; the mean over three replies is 2/9."""
    assert repetition(TEXTS) == pytest.approx(100.0 * 2 / 9, abs=1e-6)
    assert repetition([*TEXTS, ""]) == pytest.approx(100.0 * 2 / 12, abs=1e-6)


def test_unique_share_ignores_white_space_but_not_case() -> None:
    assert unique_share(["i sail", " i  sail ", "I sail", ""]) == 75.0


@pytest.mark.parametrize("metric", EVERY)
def test_order_does_not_matter_and_nothing_is_0(metric) -> None:
    assert metric(TEXTS) == metric(TEXTS[::-1])
    assert metric([]) == 0.0
    if metric is not unique_share:
        assert metric(["", " "]) == 0.0


def test_rules_decide_what_a_word_is() -> None:
    assert distinct(["Sail, sail!"], 1) == 100.0
    assert distinct(["Sail, sail!"], 1, "words") == 50.0
    assert mean_words(["i sail , ok ?"]) == 5.0
    assert mean_words(["i sail , ok ?"], "words") == 3.0


def test_any_script_counts() -> None:
    assert distinct(["я плыву", "я бегу"], 1) == 75.0
    assert distinct(["Я плыву", "я бегу"], 1, "words") == 75.0


def test_empty_replies_are_counted() -> None:
    assert count_empty(["", "\t\n", "ok"]) == 2
    assert mean_words(["", "a b", "", "c d"]) == 1.0
