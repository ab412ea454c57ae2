"""Adversarial inputs: what they change, and what they never touch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.load import load_dialogues
from sptune.errors import UsageError
from sptune.experiments.robustness.contradiction import contradict
from sptune.experiments.robustness.foreign import FOREIGN
from sptune.experiments.robustness.perturbation import INJECTIONS, NAMES, PERTURBATIONS, meaning_of, perturb

TALKS = tuple(load_dialogues("sample:test", split="1:6"))


def answers(talks: list[Dialogue] | tuple[Dialogue, ...]) -> list[tuple[str | None, tuple[str, ...]]]:
    return [(turn.response, turn.candidates) for talk in talks for turn in talk.turns]


def users(talk: Dialogue) -> list[str]:
    return [turn.user for turn in talk.turns]


def with_candidates(talk: Dialogue) -> Dialogue:
    return replace(talk, turns=tuple(replace(turn, candidates=("Hm.", turn.response or "")) for turn in talk.turns))


@pytest.mark.parametrize("name", NAMES)
def test_gold_responses_and_candidates_stay_and_something_else_changes(name: str) -> None:
    talks = [with_candidates(talk) for talk in TALKS]
    disturbed = perturb(name, talks)
    assert answers(disturbed) == answers(talks)
    assert disturbed != talks
    assert meaning_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides(name: str) -> None:
    first, again = (perturb(name, TALKS, seed=3) for _ in range(2))
    assert first == again
    if name in ("typos", "shuffle", "irrelevant", "injection", "language"):
        assert first != perturb(name, TALKS, seed=4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "irrelevant"])
def test_a_dialogue_is_disturbed_alike_whatever_stands_beside_it(name: str) -> None:
    together, alone = perturb(name, TALKS), perturb(name, TALKS[2:3])
    assert [talk for talk in together if talk.id.split("#")[0] == TALKS[2].id] == alone


@pytest.mark.parametrize("name", ["typos", "case", "injection", "language"])
def test_what_the_user_says_changes_in_every_turn_and_silence_stays(name: str) -> None:
    silent = replace(TALKS[0], turns=(Turn("", "Hello!"), *TALKS[0].turns))
    [disturbed] = perturb(name, [silent])
    assert disturbed.persona == silent.persona
    assert users(disturbed)[0] == ""
    assert all(after != before for after, before in zip(users(disturbed)[1:], users(silent)[1:], strict=True))


@pytest.mark.parametrize("name", ["shuffle", "irrelevant", "contradiction"])
def test_what_the_persona_says_changes_and_the_user_does_not(name: str) -> None:
    for talk, disturbed in zip(TALKS, perturb(name, TALKS), strict=True):
        assert users(disturbed) == users(talk)
        assert disturbed.persona != talk.persona


def test_typos_leave_most_of_a_text_alone() -> None:
    words = ["remarkable"] * 200
    [talk] = perturb("typos", [Dialogue("a", (), (Turn(" ".join(words), "yes"),))])
    wrong = sum(word != "remarkable" for word in talk.turns[0].user.split())
    assert 15 < wrong < 70
    assert all(abs(len(word) - len("remarkable")) <= 1 for word in talk.turns[0].user.split())
    assert users(perturb("typos", [Dialogue("a", (), (Turn("12 :) ok", "yes"),))])[0]) == ["12 :) ok"]


def test_capitals_become_small_letters_where_there_are_no_others() -> None:
    talk = Dialogue("a", (), (Turn("is it Über ?", "yes"), Turn("YES ?", "yes")))
    assert users(perturb("case", [talk])[0]) == ["IS IT ÜBER ?", "yes ?"]


def test_a_shuffled_persona_has_the_same_sentences() -> None:
    for talk, disturbed in zip(TALKS, perturb("shuffle", TALKS), strict=True):
        assert sorted(disturbed.persona) == sorted(talk.persona)
    alike = Dialogue("a", ("i sail .", "i sail ."), (Turn("hi", "yo"),))
    assert perturb("shuffle", [alike, replace(alike, persona=())]) == [alike, replace(alike, persona=())]


def test_irrelevant_sentences_come_from_other_personas() -> None:
    for talk, disturbed in zip(TALKS, perturb("irrelevant", TALKS), strict=True):
        added = [sentence for sentence in disturbed.persona if sentence not in talk.persona]
        assert [sentence for sentence in disturbed.persona if sentence in talk.persona] == list(talk.persona)
        assert len(added) == len(set(added)) == len(talk.persona)
        assert all(any(sentence in other.persona for other in TALKS if other is not talk) for sentence in added)
    with pytest.raises(UsageError, match="irrelevant needs dialogues with different personas"):
        perturb("irrelevant", TALKS[:1])


def test_contradictions_follow_the_persona() -> None:
    for talk, disturbed in zip(TALKS, perturb("contradiction", TALKS), strict=True):
        assert disturbed.persona == (*talk.persona, *map(contradict, talk.persona))


@pytest.mark.parametrize(
    ("sentence", "opposite"),
    [
        ("I'm a nurse.", "I'm not a nurse."),
        ("My car is red.", "My car is not red."),
        ("I can swim.", "I can not swim."),
        ("i love jazz .", "i do not love jazz ."),
        ("I can't swim.", "I can swim."),
        ("I cannot swim.", "I can swim."),
        ("I won't fly.", "I will fly."),
        ("I have never flown.", "I have flown."),
        ("I do not eat meat.", "I eat meat."),
        ("i have no pets .", "i have pets ."),
        ("Bees fascinate me.", "it is not true that Bees fascinate me."),
        ("ich lese .", "it is not true that ich lese ."),
    ],
)
def test_the_opposite_of_a_sentence(sentence: str, opposite: str) -> None:
    assert contradict(sentence) == opposite


def test_an_injected_order_follows_what_the_user_says() -> None:
    for talk, disturbed in zip(TALKS, perturb("injection", TALKS), strict=True):
        for before, after in zip(users(talk), users(disturbed), strict=True):
            assert not before or (after.startswith(f"{before} ") and after.removeprefix(f"{before} ") in INJECTIONS)


def test_another_language_is_one_for_a_dialogue_and_never_runs_out() -> None:
    long = replace(TALKS[0], turns=TALKS[0].turns * 5)
    said = set(users(perturb("language", [long])[0])) - {""}
    assert [code for code, messages in FOREIGN.items() if said <= set(messages)]
    assert all(len(set(messages)) == len(messages) > 4 for messages in FOREIGN.values())


def test_without_history_every_turn_stands_alone_with_its_persona() -> None:
    alone = perturb("history", TALKS)
    assert [talk.turns for talk in alone] == [(turn,) for talk in TALKS for turn in talk.turns]
    assert len({talk.id for talk in alone}) == len(alone)
    assert all(talk.persona == TALKS[0].persona for talk in alone[: len(TALKS[0].turns)])


def test_an_unknown_perturbation_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'noise' is not one of typos, case, .*history"):
        perturb("noise", TALKS)
    assert "history" not in PERTURBATIONS
