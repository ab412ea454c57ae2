"""Persona recall and copy rate."""

from __future__ import annotations

import doctest
import math

import pytest

from sptune.evaluation.metrics import persona as persona_module
from sptune.evaluation.metrics.persona import content_words, copy_rate, persona_recall

SAILOR = ("i live on a wooden sailboat .", "my two dogs travel with me .")
BAKER = ("i bake rye bread at night .", "my dogs hate flour .")


def test_docstring_examples_hold() -> None:
    assert doctest.testmod(persona_module).failed == 0


def test_content_words_leave_out_function_words_contractions_and_punctuation() -> None:
    assert content_words("I'm the one who can't swim, you don't say !") == {"swim", "say"}
    assert content_words("My Grandma\u2019s Boat") == {"grandma", "boat"}
    assert content_words("i am a .") == frozenset()


def test_persona_recall_by_hand() -> None:
    """Of D = 2 personas the sailor has 5 content words and the baker 7; they share "dogs".

    idf(dogs) = ln(3/3) + 1 = 1, that of any other word r = ln(3/2) + 1.
    "dogs travel" recalls (1 + r) / (1 + 4r), "rye" r / (1 + 6r).
    """
    r = math.log(1.5) + 1.0
    expected = 100.0 * ((1 + r) / (1 + 4 * r) + r / (1 + 6 * r)) / 2
    assert persona_recall(["my dogs travel !", "rye ?"], [SAILOR, BAKER]) == pytest.approx(expected, abs=1e-6)


def test_rare_words_weigh_more() -> None:
    personas = [SAILOR, BAKER]
    assert persona_recall(["wooden", ""], personas) > persona_recall(["dogs", ""], personas) > 0.0


def test_saying_the_whole_persona_is_100_and_saying_nothing_is_0() -> None:
    assert persona_recall([" ".join(SAILOR), " ".join(BAKER)], [SAILOR, BAKER]) == pytest.approx(100.0)
    assert persona_recall(["", "i am what you are"], [SAILOR, BAKER]) == 0.0


def test_recall_counts_each_persona_once_however_many_turns_it_has() -> None:
    """idf comes from distinct personas: more turns of the baker do not make the sailor's words rarer."""
    once = persona_recall(["my dogs", "my dogs"], [SAILOR, SAILOR])
    assert persona_recall(["my dogs"], [SAILOR]) == pytest.approx(once, abs=1e-9)
    replies, personas = ["my dogs", "", "", ""], [SAILOR, BAKER, BAKER, BAKER]
    assert 4 * persona_recall(replies, personas) == pytest.approx(2 * persona_recall(replies[:2], personas[:2]))


def test_replies_without_any_persona_do_not_count() -> None:
    assert persona_recall(["my dogs", "hello"], [SAILOR, ()]) == persona_recall(["my dogs"], [SAILOR]) > 0.0
    assert persona_recall(["hello", "i am"], [(), ("i am .",)]) == 0.0
    assert copy_rate(["one two three four"], [()]) == 0.0


def test_copy_rate_by_hand() -> None:
    """Three 4-grams, of which "i live on a" is copied, and two, of which "i bake rye bread" is: 2 of 5."""
    assert copy_rate(["and i live on a raft", "i bake rye bread now"], [SAILOR, BAKER]) == pytest.approx(40.0)


def test_copying_verbatim_is_100_and_only_the_own_persona_counts() -> None:
    assert copy_rate(list(SAILOR[:1]), [SAILOR]) == 100.0
    assert copy_rate(list(SAILOR[:1]), [BAKER]) == 0.0


def test_copied_runs_do_not_cross_sentences_of_the_persona() -> None:
    assert copy_rate(["sailboat . my two"], [SAILOR]) == 0.0


def test_short_replies_cannot_copy() -> None:
    assert copy_rate(["my two dogs", ""], [SAILOR, SAILOR]) == 0.0


def test_copy_rate_follows_the_rule_of_words() -> None:
    assert copy_rate(["My two dogs travel!"], [SAILOR]) == 0.0
    assert copy_rate(["My two dogs travel!"], [SAILOR], rule="words") == 100.0
