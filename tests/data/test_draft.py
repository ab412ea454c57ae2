from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sptune.data.dialogue import Dialogue, Turn
from sptune.data.draft import Draft, settle
from sptune.data.problems import Report

TALK = Dialogue("", ("i sew .",), (Turn("hi", "hello"),))


def drafts_of(*talks: Dialogue) -> list[Draft]:
    return [Draft(talk, line) for line, talk in enumerate(talks, start=1)]


def test_the_same_dialogue_twice_is_a_warning_that_names_the_first() -> None:
    report = Report("f")
    other = replace(TALK, turns=(Turn("hi", "goodbye"),))
    settled = settle(drafts_of(TALK, other, replace(TALK, id="b")), "self", report)
    assert [(p.line, p.code, p.severity) for p in report.problems()] == [(3, "duplicate-dialogue", "warning")]
    assert "line 1" in report.problems()[0].message
    assert len(settled.dialogues) == 3


def test_two_dialogues_on_one_line_can_be_the_same() -> None:
    report = Report("f")
    settle([Draft(TALK, 1), Draft(TALK, 1)], "self", report)
    assert [p.code for p in report.problems()] == ["duplicate-dialogue"]


def test_dialogues_that_differ_only_in_their_persona_are_not_the_same_whatever_is_kept_of_it() -> None:
    report = Report("f")
    settle(drafts_of(TALK, replace(TALK, persona=("i knit .",))), "none", report)
    assert report.problems() == ()


def test_a_dialogue_with_an_error_is_nobodys_duplicate() -> None:
    report = Report("f")
    settled = settle([Draft(TALK, 1, faulty=True), Draft(TALK, 2)], "self", report)
    assert report.problems() == ()
    assert settled.skipped == 1
    assert [talk.id for talk in settled.dialogues] == ["2"]


def test_an_id_used_twice_is_renamed_with_a_warning() -> None:
    report = Report("f")
    talks = [Dialogue("a", ("i sew .",), (Turn(f"hi {n}", "hello"),)) for n in range(3)]
    settled = settle(drafts_of(*talks), "self", report)
    assert [talk.id for talk in settled.dialogues] == ["a", "a-2", "a-3"]
    assert [(p.line, p.code) for p in report.problems()] == [(2, "duplicate-id"), (3, "duplicate-id")]


@given(st.lists(st.sampled_from(["", "", "a", "a-2", "1", "2", "1-2"]), max_size=12))
def test_ids_are_unique_and_the_first_to_claim_one_keeps_it(names: list[str]) -> None:
    talks = [Dialogue(name, ("i sew .",), (Turn(f"hi {n}", "hello"),)) for n, name in enumerate(names)]
    ids = [talk.id for talk in settle(drafts_of(*talks), "self", Report("f")).dialogues]
    assert len(set(ids)) == len(names)
    assert all(ids)
    for name in set(names) - {""}:
        assert ids[names.index(name)] == name
