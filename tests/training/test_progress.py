"""What a person sees while training: steps, ETA, tokens/s, losses, usage, validations and warnings."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from small_run import small_trainer, talks
from sptune.model.load import LoadedBase
from sptune.training.progress import ProgressBar


def show(base: LoadedBase, folder: Path, *, terminal: bool, warning: str = "") -> str:
    """The output of a run of 6 steps with validation."""
    screen = io.StringIO()
    bar = ProgressBar(Console(file=screen, force_terminal=terminal, width=250, highlight=False))
    run = small_trainer(base, folder, options={"validation": talks(2, seed=1), "callbacks": [bar]}, max_steps=6)
    bar.trainer = run
    if warning:
        run.monitor.warnings = lambda *_, **__: [warning]  # type: ignore[method-assign]
    run.train()
    return screen.getvalue()


@pytest.fixture(scope="module")
def plain(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> str:
    return show(tiny_base, tmp_path_factory.mktemp("plain"), terminal=False)


@pytest.fixture(scope="module")
def terminal(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> str:
    return show(tiny_base, tmp_path_factory.mktemp("terminal"), terminal=True)


NOTE = (
    r"loss -?\d+\.\d{3} \(llm \d+\.\d{3} selection \d+\.\d{3} contrastive \d+\.\d{3} fusion \d+\.\d{3}\) "
    r"usage entropy \d\.\d\d \d+ tokens/s"
)
VALIDATION = r"validation at step {}: perplexity [\d.]+ \(fused [\d.]+, best prompt in hindsight [\d.]+\), usage entropy \d\.\d\d"


def test_a_pipe_gets_a_line_each_few_steps(plain: str):
    lines = [line for line in plain.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["2/6", "4/6", "6/6"]
    assert all(re.fullmatch(rf"step \d/6 {NOTE} ETA \d+:\d\d", line) for line in lines), lines
    assert lines[-1].endswith("ETA 0:00")


def test_a_pipe_gets_no_control_characters(plain: str):
    assert "\x1b" not in plain
    assert "\r" not in plain


def test_a_terminal_gets_a_bar_with_eta(terminal: str):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal)
    assert "training" in text
    assert "6/6" in text
    assert "ETA" in text
    assert re.search(NOTE, text)
    assert not re.search(r"^step \d", text, re.MULTILINE), "the bar says it already"


def test_the_cursor_is_given_back(terminal: str):
    assert terminal.count("\x1b[?25h") == terminal.count("\x1b[?25l") > 0


@pytest.mark.parametrize("screen", ["plain", "terminal"])
def test_validations_are_printed_on_both(screen: str, request: pytest.FixtureRequest):
    text = request.getfixturevalue(screen)
    for step in (3, 6):
        assert len(re.findall(VALIDATION.format(step), text)) == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_warnings_are_printed_whole(tiny_base: LoadedBase, tmp_path: Path, terminal: bool):
    warning = "the retriever has [collapsed]: " + "try this " * 40 + "or that"
    text = show(tiny_base, tmp_path, terminal=terminal, warning=warning)
    assert f"warning: {warning}" in text


def test_a_warning_of_the_monitor_is_printed_once(plain: str):
    """The untrained retriever of this run chooses one prompt for everyone, from beginning to end."""
    assert plain.count("warning: the retriever has collapsed: 100% of contexts choose prompt ") == 1


def test_it_can_be_closed_at_any_time_and_twice(tiny_base: LoadedBase, tmp_path: Path):
    bar = ProgressBar(Console(file=io.StringIO(), force_terminal=True))
    bar.close()
    run = small_trainer(tiny_base, tmp_path, options={"callbacks": [bar]}, max_steps=1)
    run.train()
    bar.close()
    bar.close()


def test_a_resumed_run_counts_on(tiny_base: LoadedBase, tmp_path: Path):
    small_trainer(tiny_base, tmp_path, max_steps=3).train()
    for path in (tmp_path / "checkpoints").glob("*/trainer_state.json"):
        path.write_text(path.read_text().replace('"should_training_stop": true', '"should_training_stop":false'))
    screen = io.StringIO()
    bar = ProgressBar(Console(file=screen, width=250))
    small_trainer(tiny_base, tmp_path, options={"callbacks": [bar]}, max_steps=6).train(resume=True)
    assert re.findall(r"^step (\S+)", screen.getvalue(), re.MULTILINE) == ["4/6", "6/6"]
