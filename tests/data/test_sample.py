"""Quality of the bundled dialogues: counts, split by persona, no repetition, responses in character, no templates."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations, pairwise

import pytest
from nltk.stem.porter import PorterStemmer
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from sptune.data.check import check
from sptune.data.dialogue import Dialogue
from sptune.data.load import load_dialogues, read
from sptune.text import ngrams, tokenize_words

PARTS = {part: load_dialogues(f"sample:{part}") for part in ("train", "validation", "test")}
TALKS = [talk for talks in PARTS.values() for talk in talks]
RESPONSES = [turn.response or "" for talk in TALKS for turn in talk.turns]

STEM = PorterStemmer()


def persona_name(talk: Dialogue) -> str:
    return talk.id.rsplit("-", 1)[0]


def words(text: str) -> list[str]:
    return tokenize_words(text, "words")


def content(texts: Iterable[str]) -> set[str]:
    """Stems of the words that tell something."""
    plain = {word.split("'")[0] for text in texts for word in words(text)}
    return {STEM.stem(word) for word in plain - ENGLISH_STOP_WORDS if len(word) > 2}


def messages(talk: Dialogue) -> list[str]:
    return [text for turn in talk.turns for text in (turn.user, turn.response or "")]


def sentences(talk: Dialogue) -> set[tuple[str, ...]]:
    """Sentences of at least five words, as words."""
    found = (tuple(words(part)) for text in messages(talk) for part in re.split(r"(?<=[.!?])\s+", text))
    return {sentence for sentence in found if len(sentence) >= 5}


@pytest.mark.parametrize(
    ("part", "dialogues", "personas", "turns"), [("train", 88, 44, 630), ("validation", 14, 7, 98), ("test", 14, 7, 98)]
)
def test_counts_are_those_of_the_readme_and_nothing_is_wrong(
    part: str, dialogues: int, personas: int, turns: int
) -> None:
    result = read(f"sample:{part}")
    report = check(result)
    assert (report.dialogues, report.personas, report.turns) == (dialogues, personas, turns)
    assert result.problems == ()


def test_every_dialogue_has_4_or_5_sentences_and_6_to_8_full_turns() -> None:
    for talk in TALKS:
        assert 4 <= len(talk.persona) <= 5, talk.id
        assert 6 <= len(talk.turns) <= 8, talk.id
        assert all(turn.user and turn.response for turn in talk.turns), talk.id


def test_ids_are_unique_and_a_persona_stands_in_one_file_with_both_its_dialogues() -> None:
    assert len({talk.id for talk in TALKS}) == 116
    files = [Counter(persona_name(talk) for talk in talks) for talks in PARTS.values()]
    assert all(set(counts.values()) == {2} for counts in files)
    assert not any(set(one) & set(other) for one, other in combinations(files, 2))
    by_name = defaultdict(set)
    for talk in TALKS:
        by_name[persona_name(talk)].add(talk.persona)
    assert all(len(personas) == 1 for personas in by_name.values())
    assert len(set().union(*by_name.values())) == 58


def test_the_two_dialogues_of_a_persona_do_not_stand_together() -> None:
    for talks in PARTS.values():
        assert all(persona_name(one) != persona_name(two) for one, two in pairwise(talks))


def test_no_two_dialogues_share_more_than_three_sentences() -> None:
    spoken = {talk.id: sentences(talk) for talk in TALKS}
    for one, two in combinations(spoken, 2):
        assert len(spoken[one] & spoken[two]) <= 3, (one, two)


def test_openings_differ() -> None:
    for first in ([talk.turns[0].user for talk in TALKS], [talk.turns[0].response or "" for talk in TALKS]):
        assert len({tuple(words(text)[:4]) for text in first}) == len(TALKS)


def test_there_are_no_templates() -> None:
    where = defaultdict(set)
    for talk in TALKS:
        for text in messages(talk):
            for phrase in ngrams(words(text), 6):
                where[phrase].add(talk.id)
    assert max(len(talks) for talks in where.values()) == 1
    assert len(set(RESPONSES)) == len(RESPONSES)
    starts = Counter(tuple(words(text)[:2]) for text in RESPONSES)
    assert max(starts.values()) < 0.02 * len(RESPONSES)


def test_responses_refer_to_their_persona_often_and_to_other_personas_seldom() -> None:
    told = {persona_name(talk): content(talk.persona) for talk in TALKS}
    own, other = [], []
    for talk in TALKS:
        mine = told[persona_name(talk)]
        said = [content([turn.response or ""]) for turn in talk.turns]
        own += [bool(stems & mine) for stems in said]
        strangers = [stems for name, stems in told.items() if name != persona_name(talk)]
        other += [bool(stems & theirs) for stems in said for theirs in strangers]
        assert any(stems & mine for stems in said), talk.id
    assert statistics.mean(own) > 0.3
    assert statistics.mean(own) > 3 * statistics.mean(other)


def test_responses_vary_in_length_and_are_not_all_questions() -> None:
    lengths = [len(words(text)) for text in RESPONSES]
    assert min(lengths) >= 3
    assert max(lengths) <= 40
    assert 12 <= statistics.mean(lengths) <= 20
    assert statistics.pstdev(lengths) > 5
    for talk in TALKS:
        assert len({len(words(turn.response or "")) for turn in talk.turns}) >= 4, talk.id
    assert 0.05 < statistics.mean(text.endswith("?") for text in RESPONSES) < 0.3


def test_responses_stand_on_one_line_without_the_marks_that_end_a_reply() -> None:
    for talk in TALKS:
        for text in (*talk.persona, *messages(talk)):
            assert text.isprintable(), (talk.id, text)
            assert text == " ".join(text.split()), (talk.id, text)
    assert not any(mark in text for text in RESPONSES for mark in (":", "Q:", "R:"))
