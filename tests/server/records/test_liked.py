from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorded import BEES, context
from sptune.data.dialogue import Dialogue, Turn
from sptune.data.load import read
from sptune.data.save import save_dialogues
from sptune.server.records.liked import CUT, DISPUTED, REPEATED, LikedDialogues, liked_dialogues
from sptune.server.records.record import RatedReply


def rated(name: str, *said: str, rating: int = 1, finish: str = "stop", persona: tuple[str, ...] = BEES) -> RatedReply:
    """A reply in a talk of texts by turns: user, response, user, ..., the reply last."""
    return RatedReply(replace(context(*said[:-1], persona=persona).answer(said[-1]), id=name), finish, rating)


def talks(found: LikedDialogues) -> list[list[str]]:
    """What is said in the dialogues, by turns."""
    return [[text for turn in talk.turns for text in (turn.user, turn.response)] for talk in found.dialogues]


def marks(found: LikedDialogues) -> list[list[bool]]:
    """Which responses are to be learned."""
    return [[turn.learn for turn in talk.turns] for talk in found.dialogues]


def test_a_liked_reply_becomes_a_dialogue_of_persona_message_and_reply() -> None:
    found = liked_dialogues([rated("c1", "Hi!", "Hello."), rated("c2", "Who?", "Me.", rating=-1)])
    assert found == LikedDialogues(
        (Dialogue("c1", BEES, (Turn("Hi!", "Hello."),)),), responses=1, history=0, liked=1, disliked=1, left_out={}
    )


def test_liked_replies_of_one_talk_become_one_dialogue() -> None:
    found = liked_dialogues(
        [rated("c2", "a", "A", "b", "B"), rated("c1", "a", "A"), rated("c3", "a", "A", "b", "B", "c", "C")]
    )
    assert talks(found) == [["a", "A", "b", "B", "c", "C"]]
    assert (found.dialogues[0].id, found.responses, found.left_out) == ("c3", 3, {})


def test_talks_that_part_ways_become_two_dialogues() -> None:
    found = liked_dialogues([rated("c1", "a", "A"), rated("c2", "a", "A", "b", "B"), rated("c3", "a", "A", "x", "X")])
    assert talks(found) == [["a", "A", "b", "B"], ["a", "A", "x", "X"]]
    assert marks(found) == [[True, True], [False, True]], "what both begin with is learned once"
    assert (found.responses, found.history) == (3, 1)


def test_another_persona_makes_another_talk() -> None:
    found = liked_dialogues([rated("c1", "a", "A"), rated("c2", "a", "A", "b", "B", persona=("I sail.",))])
    assert talks(found) == [["a", "A"], ["a", "A", "b", "B"]]
    assert marks(found) == [[True], [False, True]]


def test_a_reply_that_was_not_liked_is_only_history() -> None:
    found = liked_dialogues([rated("c1", "a", "A"), rated("c3", "a", "A", "b", "B", "c", "C")])
    assert talks(found) == [["a", "A", "b", "B", "c", "C"]]
    assert marks(found) == [[True, False, True]]
    assert (found.responses, found.history, found.left_out) == (2, 1, {})


def test_replies_that_were_cut_off_are_taken_only_when_asked_for() -> None:
    cut = [rated("c1", "a", "A", finish="length"), rated("c2", "b", "B", finish="cancelled"), rated("c3", "c", "C")]
    assert talks(liked_dialogues(cut)) == [["c", "C"]]
    assert liked_dialogues(cut).left_out == {CUT: 2}
    assert talks(liked_dialogues(cut, include_cut=True)) == [["a", "A"], ["b", "B"], ["c", "C"]]


def test_the_same_reply_counts_once_and_the_majority_decides() -> None:
    likes = [rated(f"c{n}", "a", "A") for n in range(2)]
    found = liked_dialogues([*likes, rated("c2", "a", "A", rating=-1)])
    assert (talks(found), found.left_out, found.liked, found.disliked) == ([["a", "A"]], {REPEATED: 1}, 2, 1)
    found = liked_dialogues([*likes, *(rated(f"d{n}", "a", "A", rating=-1) for n in range(2))])
    assert (talks(found), found.left_out) == ([], {DISPUTED: 2})


def test_what_a_training_file_cannot_hold_is_tidied_or_left_out() -> None:
    found = liked_dialogues(
        [
            rated("c1", " a\r\n", "A\x1b[0m\n", persona=("I sail.\x07", " ")),
            rated("c2", "", "I speak first."),
            rated("c3", "b", " \n"),
            rated("c4", "c", "C", "", "still me"),
        ]
    )
    assert found.dialogues[0] == Dialogue("c1", ("I sail.",), (Turn("a", "A[0m"),))
    assert talks(found)[1:] == [["", "I speak first."]]
    assert found.left_out == {
        "a response without text": 1,
        "two messages of one speaker in a row; they are joined by a space": 1,
    }


def test_nothing_liked_gives_nothing() -> None:
    assert liked_dialogues([]) == LikedDialogues((), 0, 0, 0, 0, {})


words = st.sampled_from(["a", "b"])
replies = st.builds(
    lambda exchanges, persona, finish, rating: RatedReply(
        Dialogue("id", persona, tuple(exchanges)), "stop" if finish else "length", 1 if rating else -1
    ),
    st.lists(st.builds(Turn, words, words), min_size=1, max_size=3),
    st.sampled_from([(), ("I sail.",)]),
    st.integers(0, 4),
    st.integers(0, 3),
)


def examples(talk: Dialogue) -> list[tuple[object, ...]]:
    """What training learns from a dialogue: each response that is not only history, given all that stands before it."""
    said = tuple(replace(turn, line=None, learn=True) for turn in talk.turns)
    return [(talk.persona, said[: n + 1]) for n, turn in enumerate(talk.turns) if turn.learn]


@settings(deadline=None)  # it writes a file
@given(st.lists(replies, max_size=30))
def test_training_learns_what_was_liked_in_its_context_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, given_replies: list[RatedReply]
) -> None:
    found = liked_dialogues(given_replies)
    votes: dict[tuple[object, ...], int] = {}
    for reply in given_replies:
        said = (reply.dialogue.persona, reply.dialogue.turns)
        votes[said] = votes.get(said, 0) + reply.rating
    liked = {
        (reply.dialogue.persona, reply.dialogue.turns)
        for reply in given_replies
        if reply.rating > 0 and reply.finish == "stop" and votes[reply.dialogue.persona, reply.dialogue.turns] > 0
    }
    if found.dialogues:
        path = tmp_path_factory.getbasetemp() / "liked.jsonl"
        save_dialogues(found.dialogues, path, force=True)
        result = read(path)
        assert {problem.code for problem in result.problems} <= {"duplicate-id", "no-persona"}
        learned = [example for talk in result.dialogues for example in examples(talk)]
        assert len(learned) == len(set(learned))
        assert set(learned) == liked
    assert found.responses == len(liked)
    assert found.responses + sum(found.left_out.values()) == found.liked
    assert found.liked + found.disliked == len(given_replies)
