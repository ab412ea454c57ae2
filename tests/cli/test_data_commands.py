from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sptune.cli import data
from sptune.data.dialogue import Dialogue, Turn
from sptune.data.load import read
from sptune.errors import DataError, UsageError

RUN = CliRunner()
GOOD = """\
1 your persona: i keep bees .
2 partner's persona: i bake .
3 hello there\thi , the hives are buzzing\t\tno|hi , the hives are buzzing
1 your persona: i fear geese .
2 do you like parks ?\tonly without geese
1 your persona: i juggle .
2 with what ?\tknives
1 your persona: i whistle .
2 a tune ?\talways the same one
"""


@pytest.fixture
def talks(tmp_path: Path) -> str:
    path = tmp_path / "talks.txt"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def flawed(tmp_path: Path) -> str:
    path = tmp_path / "flawed.txt"
    path.write_text(
        GOOD + "1 your persona: i row .\n2 hi\n1 your persona: i whistle .\n2 a tune ?\talways the same one\n"
    )
    return str(path)


def test_show_prints_the_first_dialogues_plainly_when_piped(talks: str) -> None:
    result = RUN.invoke(data.app, ["show", talks, "--limit", "1", "--persona", "both"])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "dialogue: 1",
        "persona: i keep bees .",
        "partner: i bake .",
        "user: hello there",
        "response: hi , the hives are buzzing",
        "candidates: 2",
    ]


def shown(*options: str) -> list[str]:
    output = RUN.invoke(data.app, ["show", *options]).output
    return [line.removeprefix("dialogue: ") for line in output.splitlines() if line.startswith("dialogue")]


def test_show_takes_three_dialogues_a_range_or_a_seeded_sample(talks: str) -> None:
    assert shown(talks) == ["1", "2", "3"]
    assert shown(talks, "--split", "3:4") == ["3", "4"]
    assert shown(talks, "--limit", "9") == ["1", "2", "3", "4"]
    assert shown(talks, "--seed", "1", "--limit", "2") == shown(talks, "--seed", "1", "--limit", "2")
    assert len({tuple(shown(talks, "--seed", str(seed))) for seed in range(10)}) > 1


def test_show_shows_what_can_be_read_and_points_at_check(flawed: str) -> None:
    result = RUN.invoke(data.app, ["show", flawed])
    assert result.exit_code == 0
    assert "persona: i juggle ." in result.stdout
    assert f"2 problems; `sptune data check {flawed}` lists them" in result.stderr


def test_a_panel_shows_markup_as_text() -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(data._panel(Dialogue("[b]7", ("[red]i paint .",), (Turn("", "[/] hello [link=x]"),))))
    text = console.export_text()
    assert "dialogue [b]7" in text
    assert "[red]i paint ." in text
    assert "(silent)" in text
    assert "[/] hello [link=x]" in text


def test_check_of_a_clean_file(talks: str) -> None:
    result = RUN.invoke(data.app, ["check", talks])
    assert result.exit_code == 0
    assert f"{talks}: convai2, 4 dialogues, 4 turns (1 with candidates), 4 different personas" in result.output
    assert result.output.splitlines()[-1] == "no problems"


def test_responses_that_are_only_history_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    said = [("user", "hi", 1), ("assistant", "hello", 0), ("user", "and ?", 1), ("assistant", "i sew", 1)]
    messages = [{"role": role, "content": text, "weight": weight} for role, text, weight in said]
    path.write_text(json.dumps({"persona": ["i sew ."], "messages": messages}) + "\n")
    checked = RUN.invoke(data.app, ["check", str(path)]).output
    assert (
        "1 dialogues, 1 turns (0 with candidates), 1 different personas, 1 responses that are only history" in checked
    )
    assert "history: hello" in RUN.invoke(data.app, ["show", str(path)]).output.splitlines()


def test_check_lists_every_problem_and_exits_with_4(flawed: str) -> None:
    result = RUN.invoke(data.app, ["check", flawed])
    assert result.exit_code == 4
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{flawed}:11: no tab in 'hi'; ")
    assert lines[0].endswith("[error: missing-tab]")
    assert lines[1].startswith(f"{flawed}:12: the same dialogue as the one at line 8; ")
    assert lines[-1] == "1 errors (1 dialogues left out), 1 warnings: missing-tab 1, duplicate-dialogue 1"


def test_check_with_warnings_alone_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "talks.txt"
    path.write_text("1 hi\thello\n")
    assert RUN.invoke(data.app, ["check", str(path)]).exit_code == 0


def test_check_prints_json_for_machines(flawed: str) -> None:
    result = RUN.invoke(data.app, ["check", flawed, "--json"])
    assert result.exit_code == 4
    found = json.loads(result.output)
    assert (found["file"], found["errors"], found["dialogues"], found["truncation"]) == (flawed, 1, 5, None)
    assert found["problems"][0] == {
        "file": flawed,
        "line": 11,
        "code": "missing-tab",
        "message": "no tab in 'hi'",
        "fix": "put a tab between the user's text and the response",
        "severity": "error",
    }


@dataclass(frozen=True)
class Truncation:
    turns: int = 4
    truncated_turns: int = 2
    too_long: int = 1
    context_tokens: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("min", "mean", "p50", "p95", "max"), 77.0)
    )
    response_tokens: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("min", "mean", "p50", "p95", "max"), 9.0)
    )


def test_check_with_a_recipe_counts_what_would_be_truncated(talks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def truncation_report(recipe: str, dialogues: list[Dialogue]) -> Truncation:
        asked.append((recipe, len(dialogues)))
        return Truncation()

    build = ModuleType("sptune.build")
    build.truncation_report = truncation_report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sptune.build", build)
    result = RUN.invoke(data.app, ["check", talks, "--recipe", "r.yaml"])
    assert result.exit_code == 0
    assert asked == [("r.yaml", 4)]
    assert "tokens a context             77" in result.output
    assert "2 of 4 turns lose their oldest history at the recipe's max_length; 1 do not fit" in result.output
    found = json.loads(RUN.invoke(data.app, ["check", talks, "--recipe", "r.yaml", "--json"]).output)
    assert found["truncation"]["too_long"] == 1


@pytest.mark.parametrize("to", ["messages", "sharegpt", "convai2"])
def test_convert_loses_nothing(talks: str, tmp_path: Path, to: str) -> None:
    output, back = tmp_path / "out", tmp_path / "back.txt"
    result = RUN.invoke(data.app, ["convert", talks, "--to", to, "--output", str(output)])
    assert result.exit_code == 0
    assert result.output.strip() == f"{output}: 4 dialogues written as {to}"
    assert read(output).format == to
    assert RUN.invoke(data.app, ["convert", str(output), "--to", "convai2", "--output", str(back)]).exit_code == 0
    assert back.read_text() == GOOD


def test_convert_refuses_to_overwrite_without_force(talks: str, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("precious")
    command = ["convert", talks, "--to", "messages", "--output", str(output)]
    assert isinstance(RUN.invoke(data.app, command).exception, UsageError)
    assert output.read_text() == "precious"
    assert RUN.invoke(data.app, [*command, "--force"]).exit_code == 0
    assert len(read(output).dialogues) == 4


def test_convert_refuses_a_file_with_errors_unless_told_to_skip(flawed: str, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    command = ["convert", flawed, "--to", "messages", "--output", str(output)]
    refused = RUN.invoke(data.app, command)
    assert isinstance(refused.exception, DataError)
    assert not output.exists()
    assert RUN.invoke(data.app, [*command, "--on-error", "skip"]).exit_code == 0
    assert len(read(output).dialogues) == 5


def test_convert_can_write_over_its_own_input(talks: str) -> None:
    assert RUN.invoke(data.app, ["convert", talks, "--to", "messages", "--output", talks, "--force"]).exit_code == 0
    assert len(read(talks).dialogues) == 4


@pytest.mark.parametrize("command", ["show", "check", "convert"])
def test_help_has_examples_and_a_missing_file_is_a_data_error(command: str, tmp_path: Path) -> None:
    # Wide enough that the examples are not broken across lines.
    words = " ".join(RUN.invoke(data.app, [command, "--help"], env={"COLUMNS": "400"}).output.split())
    assert f"Examples: `sptune data {command} " in words
    options = ["--to", "messages", "--output", str(tmp_path / "out")] if command == "convert" else []
    result = RUN.invoke(data.app, [command, str(tmp_path / "gone.txt"), *options])
    assert isinstance(result.exception, DataError)
    assert "gone.txt: no such file" in str(result.exception)


def test_a_bar_is_shown_for_a_large_file_on_a_terminal_only(talks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with data.progress_bar(talks) as progress:
        assert progress is None
    monkeypatch.setattr(data, "_BAR_FROM", 1)
    with data.progress_bar(talks) as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with data.progress_bar(talks) as progress:
        assert progress is not None
        assert len(read(talks, progress=progress).dialogues) == 4
    with data.progress_bar("sample") as progress:
        assert progress is None
