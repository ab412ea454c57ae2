"""The `sptune` command itself: its list of commands, exit codes, and what is printed when something is wrong."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from small_run import run_cli
from sptune import __version__
from sptune.cli import main
from sptune.errors import EXIT_CODES, SptError, StorageError, UsageError, exit_code


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run_cli(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    for name, (_, _, text) in main.COMMANDS.items():
        assert any(line.split()[:1] == [name] and text.split()[0] in line for line in out.splitlines()), name
    assert "sptune train quickstart" in out


def test_every_command_exists():
    for module, attribute, _ in main.COMMANDS.values():
        assert importlib.util.find_spec(module), module
        assert hasattr(importlib.import_module(module), attribute), f"{module}.{attribute}"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run_cli(monkeypatch, name, "--help") == 0
    assert f"sptune {name}" in capsys.readouterr().out


def test_help_of_train_has_examples_one_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run_cli(monkeypatch, "train", "--help")
    out = capsys.readouterr().out
    for example in ("sptune train quickstart", "sptune train runs/quickstart/recipe.yaml --resume"):
        assert example in [line.strip() for line in out.splitlines()]


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run_cli(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"sptune {__version__}\n"


def test_python_m_is_the_command():
    ran = subprocess.run([sys.executable, "-m", "sptune", "--version"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, f"sptune {__version__}\n"), ran.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["trian"], "sptune: trian: no such command; did you mean train?"),
        (["xyz"], "sptune: xyz: no such command; the commands are train, evaluate, "),
        (["train"], "RECIPE"),
        (["train", "quickstart", "--resum"], "--resum"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], wanted: str
):
    assert run_cli(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert wanted in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_each_kind_of_error_has_its_exit_code(
    kind: type[SptError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail() -> None:
        raise kind("this is wrong; do that")

    monkeypatch.setattr("sptune.cli.main.import_module", lambda _: SimpleNamespace(doctor=fail))
    assert run_cli(monkeypatch, "doctor") == EXIT_CODES[kind] != 0
    assert capsys.readouterr().err == "sptune: this is wrong; do that\n"


def test_exit_codes_differ_and_a_child_has_its_parents():
    codes = list(EXIT_CODES.values())
    assert len(set(codes)) == len(codes)

    class SpecialError(UsageError):
        pass

    assert exit_code(SpecialError()) == EXIT_CODES[UsageError]


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sptune.cli.main.import_module", lambda _: SimpleNamespace(doctor=interrupted))
    assert run_cli(monkeypatch, "doctor") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    """What is no answer to the user must stay visible as what it is."""

    def bug() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sptune.cli.main.import_module", lambda _: SimpleNamespace(doctor=bug))
    monkeypatch.setattr(sys, "argv", ["sptune", "doctor"])
    with pytest.raises(ZeroDivisionError):
        main.main()


LONG = "n" * 300  # no file system takes that; a folder that may not be searched gives the same kind of error


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", LONG),
        ("rerank", LONG, "--try", "prior_weight=0"),
        ("data", "from-records", LONG, "--dry-run"),
        ("data", "convert", "sample", "--to", "messages", "--output", LONG),
        ("train", "quickstart", f"output={LONG}"),
    ],
    ids=lambda arguments: " ".join(arguments[:2])[:20],
)
def test_a_path_that_cannot_be_looked_at_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
):
    assert run_cli(monkeypatch, *arguments) == EXIT_CODES[StorageError]
    error = capsys.readouterr().err
    assert error.startswith("sptune: ")
    assert LONG in error
    assert "File name too long; check the path and its permissions" in error


def test_an_error_of_the_system_without_a_path_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("sptune.cli.main.import_module", lambda _: SimpleNamespace(doctor=fail))
    monkeypatch.setattr(sys, "argv", ["sptune", "doctor"])
    with pytest.raises(ConnectionError):
        main.main()


def test_a_reader_that_goes_away_is_no_crash():
    """As in `sptune data show sample | head -1`."""
    command = [sys.executable, "-m", "sptune.cli.main", "data", "show", "sample", "--limit", "100"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in errors
