from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptune.data.check import check, summary
from sptune.data.dialogue import Dialogue, Turn
from sptune.data.load import ReadResult
from sptune.data.problems import Report


def test_the_report_counts_what_was_read() -> None:
    report = Report("f")
    report.add(3, "missing-tab", "")
    report.add(4, "missing-tab", "")
    report.add(5, "blank-persona", "")
    talks = (
        Dialogue("a", ("i sew .", "i knit ."), (Turn("hi there you", "hello", ("no", "hello")), Turn("so", "i sew"))),
        Dialogue("b", ("i sew .", "i knit ."), (Turn("", "one two three four five six"),)),
    )
    found = check(ReadResult(talks, report.problems(), "convai2", skipped=1))
    assert (found.dialogues, found.skipped, found.turns, found.personas) == (2, 1, 3, 1)
    assert (found.errors, found.warnings, found.codes) == (2, 1, {"missing-tab": 2, "blank-persona": 1})
    assert (found.turns_with_candidates, found.candidates["mean"]) == (1, 2)
    assert found.turns_per_dialogue == {"min": 1, "mean": 1.5, "p50": 1.5, "p95": 1.95, "max": 2}
    assert (found.user_words["max"], found.response_words["mean"], found.persona_sentences["min"]) == (3, 3, 2)


@given(st.lists(st.integers(0, 1000), min_size=1))
def test_a_summary_is_ordered_and_between_its_ends(values: list[int]) -> None:
    found = summary(values)
    assert found["min"] == min(values) <= found["p50"] <= found["p95"] <= found["max"] == max(values)
    assert found["mean"] == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_a_summary_of_nothing_is_zero() -> None:
    assert set(summary([]).values()) == {0.0}
