"""`import sptune` and `sptune --help` are quick because they load neither torch nor transformers."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "matplotlib", "sklearn", "sacrebleu", "nltk")


def loaded_after(code: str) -> set[str]:
    """Which of the heavy packages are loaded once `code` has run in a new interpreter."""
    report = f"import sys; print('loaded:', *(name for name in {HEAVY!r} if name in sys.modules))"
    source = f"try:\n    {code}\nexcept SystemExit as exit:\n    assert not exit.code, exit.code\n{report}"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "module",
    [
        "sptune",
        "sptune.errors",
        "sptune.files",
        "sptune.text",
        "sptune.config",
        "sptune.data.dialogue",
        "sptune.data.load",
        "sptune.server.settings",
        "sptune.cli.main",
    ],
)
def test_an_import_is_light(module: str):
    assert loaded_after(f"import {module}") == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["chat", "--help"], ["serve", "--help"]]
)
def test_help_is_light(arguments: list[str]):
    assert (
        loaded_after(f"import sys; sys.argv = {['sptune', *arguments]!r}; from sptune.cli.main import main; main()")
        == set()
    )


def test_the_check_itself():
    assert loaded_after("import torch") >= {"torch"}


def test_public_names_come_when_they_are_asked_for():
    assert loaded_after("import sptune; sptune.Dialogue, sptune.load_dialogues, sptune.SptError") == set()
    assert "torch" in loaded_after("import sptune; sptune.SPTModel")


def test_every_public_name_exists_and_no_other():
    import sptune

    for name in sptune.__all__:
        assert getattr(sptune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SPTModell'"):
        sptune.SPTModell  # noqa: B018
