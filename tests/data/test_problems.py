from __future__ import annotations

from pathlib import Path

import pytest

from sptune.data.problems import CODES, Report, shown

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


def test_a_problem_reads_as_file_line_message_and_fix() -> None:
    report = Report("talks.txt")
    report.add(7, "missing-tab", "no tab in 'hi'")
    assert str(report.problems()[0]) == f"talks.txt:7: no tab in 'hi'; {CODES['missing-tab'].fix}"


def test_problems_come_by_line_whatever_the_order_they_were_found_in() -> None:
    report = Report("talks.txt")
    for line in (9, 2, 5):
        report.add(line, "missing-tab", "no tab")
    assert [problem.line for problem in report.problems()] == [2, 5, 9]


def test_add_tells_errors_from_warnings() -> None:
    report = Report("talks.txt")
    assert report.add(1, "missing-tab", "")
    assert not report.add(1, "blank-persona", "")
    assert [problem.severity for problem in report.problems()] == ["error", "warning"]


@pytest.mark.parametrize("code", CODES)
def test_the_documentation_lists_each_code_with_its_severity_and_meaning(code: str) -> None:
    severity, meaning, _ = CODES[code]
    assert f"| `{code}` | {severity} | {meaning.replace('|', chr(92) + '|')} |" in DOCUMENT.read_text(encoding="utf-8")


def test_a_quoted_text_is_cut_and_cannot_reach_the_terminal_raw() -> None:
    assert "\x1b" not in shown("\x1b[2J" + "x" * 1000)
    assert len(shown("x" * 1000)) < 100
