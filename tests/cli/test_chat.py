from __future__ import annotations

import builtins
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from invoked import failure
from typer.testing import CliRunner, Result

from fake_engine import FakeEngine
from sptune.cli.chat import chat
from sptune.cli.chat_loop import HELP, ChatLoop, parse_prompt
from sptune.cli.chat_screen import Screen, why_table
from sptune.config import RerankSection
from sptune.data.load import load_dialogues
from sptune.engine.base import Chunk
from sptune.engine.reranked import RerankingEngine
from sptune.engine.session import Session
from sptune.errors import AdapterError, DataError, ModelError, RecipeError, SptError, UsageError
from sptune.evaluation.candidate_replies import Reranking
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel

TESTS = Path(__file__).parents[1]


def run(*arguments: object, typed: str | bytes = "") -> Result:
    app = typer.Typer()
    app.command("chat")(chat)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


@pytest.fixture(scope="module")
def base(tiny_base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_base.backbone.model.save_pretrained(folder)
    tiny_base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_base: LoadedBase, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """K = 3 prompts on the tiny base that are far apart, without stops."""
    folder = tmp_path_factory.mktemp("run") / "adapter"
    model = SPTModel.from_base(tiny_base, num_prompts=3, prompt_length=4)
    model.prompts.embeddings.data.mul_(50)
    model.stops = ()
    model.backbone.base = str(base)
    model.save_pretrained(folder)
    model.backbone.base = "tiny"
    return folder


@pytest.fixture
def talk(adapter: Path) -> list[object]:
    """Arguments of a quick chat with the tiny adapter."""
    return [adapter, "--dtype", "float32", "--device", "cpu", "--max-new-tokens", 8, "--persona-text", "I sail."]


# In a pipe


def test_every_message_gets_one_line_and_all_else_goes_to_stderr(talk: list[object]) -> None:
    result = run(*talk, typed="hello\n\nwho are you?\n/why\n/retry\n/help\nbye")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.split("\n")) == 5  # three messages, a retry, and what follows the last line end
    assert "\x1b" not in result.output
    assert "I sail." in result.stderr
    assert "3 prompts of 4 virtual tokens" in result.stderr
    for name in HELP:
        assert name in result.stderr


def test_a_chat_is_repeatable(talk: list[object]) -> None:
    sampled = [*talk, "--temperature", 1, "--seed", 5]
    first, again = (run(*sampled, typed="hello\n/retry\n").stdout for _ in range(2))
    assert first == again
    reply, retried, _ = first.split("\n")
    assert reply != retried


def test_the_best_of_several_candidates_is_said(talk: list[object]) -> None:
    best, again = (run(*talk, "--candidates", 5, typed="hello\nwho are you ?\n/why\n") for _ in range(2))
    assert best.exit_code == 0, best.output
    assert best.stdout == again.stdout
    assert best.stdout.count("\n") == 2
    assert best.stdout != run(*talk, typed="hello\nwho are you ?\n").stdout


def test_a_mixture_of_the_prompts_speaks(talk: list[object]) -> None:
    chosen, fused, gated = (
        run(*talk, "--max-new-tokens", 24, *options, typed="hello\nwho are you ?\n").stdout
        for options in ((), ("--decoding", "fused"), ("--decoding", "gated", "--gate-temperature", 1e-6))
    )
    assert gated == chosen != fused
    both = run(*talk, "--decoding", "fused", "--candidates", 3, typed="hello\nwho are you ?\n")
    assert "3 prompts of 4 virtual tokens, fused" in both.stderr
    assert both.stdout.count("\n") == 2
    found = failure(run(*talk, "--decoding", "gated", "--gate-temperature", 0))
    assert "--gate-temperature: 0.0 is out of range; give a number that is above 0" in str(found)
    assert "num_beams: 2 beams follow one prompt" in str(failure(run(*talk, "--decoding", "fused", "--beams", 2)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Reranking]:
    """How every engine that a test begins draws and weighs candidates."""
    found: list[Reranking] = []
    begin = RerankingEngine.__init__
    monkeypatch.setattr(
        RerankingEngine, "__init__", lambda self, model, how: (found.append(how), begin(self, model, how))[1]
    )
    return found


@pytest.mark.parametrize(
    ("decoding", "source", "likelihood"),
    [("top1", "drawn", "gated"), ("gated", "gated", "gated"), ("fused", "each", "fused")],
)
def test_candidates_come_from_who_speaks(
    talk: list[object], asked: list[Reranking], decoding: str, source: str, likelihood: str
) -> None:
    assert run(*talk, "--decoding", decoding, "--candidates", 3, typed="hello\n").exit_code == 0
    assert [(how.sampling.source, how.weights.likelihood) for how in asked] == [(source, likelihood)]


def test_what_weighs_the_candidates_can_be_changed(talk: list[object], asked: list[Reranking]) -> None:
    changes = ("--rerank", "prior_weight=2", "--rerank", "source=each")
    assert run(*talk, "--candidates", 3, *changes, typed="hello\n").exit_code == 0
    [how] = asked
    assert (how.weights.prior, how.sampling.source, how.sampling.candidates) == (2.0, "each", 3)
    assert how.weights.likelihood == "gated", "what is not changed stays"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            ("--rerank", "prior_weight=2"),
            "--rerank: 'prior_weight=2' has no meaning for one reply; add --candidates 16",
        ),
        (("--candidates", 3, "--rerank", "candidates=9"), "--rerank: candidates=9 is given as --candidates 9"),
        (("--candidates", 3, "--rerank", "prior=2"), "prior"),
        (("--candidates", 3, "--rerank", "weight=2"), "weight"),
        (("--candidates", 3, "--rerank", "prior_weight=much"), "prior_weight"),
    ],
)
def test_a_mistake_in_what_weighs_them_is_named(options: tuple[object, ...], wanted: str) -> None:
    found = failure(run("nowhere", *options))  # before the adapter is looked for
    assert isinstance(found, UsageError | RecipeError)
    assert str(found).startswith("--rerank")
    assert wanted in str(found)


@pytest.mark.parametrize("other", [("--beams", 2), ("--temperature", 0.5), ("--top-p", 0.5)])
def test_candidates_are_drawn_by_themselves(other: tuple[object, ...]) -> None:
    found = failure(run("nowhere", "--candidates", 5, *other))  # before the adapter is looked for
    assert isinstance(found, UsageError)
    assert "--candidates: are drawn by themselves; leave out --beams, --temperature and --top-p" in str(found)


def test_more_candidates_than_a_recipe_allows_are_refused_at_once() -> None:
    most = max(one.le for one in RerankSection.model_fields["candidates"].metadata if hasattr(one, "le"))
    refused = run("nowhere", "--candidates", most + 1)
    assert refused.exit_code == 2
    assert "'--candidates'" in refused.stderr
    assert isinstance(failure(run("nowhere", "--candidates", most)), AdapterError)


def test_an_input_that_ends_at_once_is_no_error(talk: list[object]) -> None:
    result = run(*talk)
    assert (result.exit_code, result.stdout) == (0, "")


def test_quit_ends_the_chat(talk: list[object]) -> None:
    assert run(*talk, typed="/quit\nhello\n").stdout == ""


def test_a_message_that_fails_keeps_its_line_and_the_chat_goes_on(talk: list[object]) -> None:
    result = run(*talk, typed="x " * 2000 + "\nhello\n")
    assert result.exit_code == 0
    assert "window" in result.stderr
    failed, reply, _ = result.stdout.split("\n")
    assert failed == ""
    assert reply == run(*talk, typed="hello").stdout.strip("\n")


def test_bytes_that_are_not_utf8_do_not_end_the_chat(talk: list[object]) -> None:
    result = run(*talk, typed=b"caf\xe9 \x07\nhello\n")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 2


def test_a_forced_prompt_is_used_and_can_be_changed(talk: list[object]) -> None:
    replies = [run(*talk, "--prompt", k, typed="hello").stdout for k in range(3)]
    assert len(set(replies)) == 3
    result = run(*talk, typed="/prompt 2\nhello\n/prompt\n/prompt auto\n/prompt 3\n/prompt -1\n/prompt two\n/why")
    assert result.stdout == replies[2]
    assert "→ 2" in result.stderr
    assert "forced with /prompt" in result.stderr
    assert "prompt 2 replies" in result.stderr
    assert "the retriever chooses the prompt" in result.stderr
    assert result.stderr.count("use auto or a number from 0 to 2") == 3


def test_why_shows_every_prompt_with_what_it_would_have_said(talk: list[object]) -> None:
    forced = [run(*talk, "--prompt", k, typed="hello").stdout.split() for k in range(3)]
    shown = " ".join(re.sub("[│┃]", " ", run(*talk, typed="hello\n/why").stderr).split())
    assert shown.count("→") == 1
    assert "margin" in shown.lower()
    for words in forced:
        assert words[0][:6] in shown


def test_persona_is_shown_set_and_cleared(talk: list[object], tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    typed = f"/persona\nhi\n/persona I bake. | I am old.\nhi\n/persona none\nhi\n/persona |\n/save {file}\n"
    result = run(*talk, typed=typed)
    assert result.exit_code == 0
    assert result.stderr.count("a new conversation begins") == 2
    assert "no persona" in result.stderr
    assert "/persona: no sentence given" in result.stderr
    assert [t.persona for t in load_dialogues(file)] == [("I sail.",), ("I bake.", "I am old."), ()]
    assert len(set(result.stdout.split("\n")[:3])) == 3  # the persona is heard


def test_persona_from_files_and_options_together(talk: list[object], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("I ski.\nI sing.\n")
    result = run(*talk, "--persona", tmp_path / "p.txt", "--persona-text", "I bake. | I dig.", typed="/persona\n")
    assert result.stderr.endswith("I ski.\nI sing.\nI sail.\nI bake.\nI dig.\n")


def test_reset_begins_anew(talk: list[object], tmp_path: Path) -> None:
    result = run(*talk, typed=f"hello\n/reset\nhello\n/save {tmp_path / 'a.jsonl'}\n")
    first, second, _ = result.stdout.split("\n")
    assert first == second
    assert "2 conversations written" in result.stderr


def test_save_refuses_to_overwrite_without_a_bang(talk: list[object], tmp_path: Path) -> None:
    file = tmp_path / "a talk.jsonl"
    file.write_text("precious")
    refused = run(*talk, typed=f"hello\n/save {file}\n/save\n/save {tmp_path}\n/save {tmp_path}/no/such.jsonl\n")
    assert refused.exit_code == 0
    assert f"/save! {file}" in refused.stderr
    assert "no file named" in refused.stderr
    assert "is a folder" in refused.stderr
    assert "cannot be written" in refused.stderr
    assert file.read_text() == "precious"
    assert "1 conversation written" in run(*talk, typed=f"hello\n/save! {file}\n").stderr
    assert [len(talk.turns) for talk in load_dialogues(file)] == [1]
    assert os.listdir(tmp_path) == [file.name]


def test_a_path_that_cannot_be_looked_at_does_not_end_the_chat(talk: list[object], tmp_path: Path) -> None:
    result = run(*talk, typed=f"hello\n/save {'n' * 300}\n/save {tmp_path / 'a.jsonl'}\n")
    assert result.exit_code == 0
    assert "File name too long; the conversation is kept" in result.stderr
    assert "1 conversation written" in result.stderr


@pytest.mark.parametrize(
    ("typed", "notice"),
    [
        ("/persnoa", "/persnoa: no such command; did you mean /persona?"),
        ("/xyzzy", "/xyzzy: no such command; /help lists them"),
        ("/", "/: no such command"),
        ("/retry", "there is no reply yet"),
        ("/why", "there is no reply yet"),
        ("/save x.jsonl", "nothing to save yet"),
    ],
)
def test_a_command_that_cannot_work_says_so(talk: list[object], typed: str, notice: str) -> None:
    result = run(*talk, typed=typed)
    assert result.exit_code == 0
    assert notice in result.stderr


def test_sticky_keeps_the_forced_prompt_when_set_free(talk: list[object]) -> None:
    typed = "/prompt 0\nhello\n/prompt auto\nhello\n/why\n/prompt 2\nhello\n/prompt auto\nhello\n/why"
    sticky = run(*talk, "--selection", "sticky", "--sticky-margin", 9, typed=typed).stderr
    assert re.findall(r"→ (\d)", sticky) == ["0", "2"]
    assert "kept from the turn before" in sticky
    assert run(*talk, typed=typed).stderr.count("it scores best for this context") == 2


def test_beams_reply_too(talk: list[object]) -> None:
    assert run(*talk, "--beams", 3, typed="hello\n").stdout.count("\n") == 1


def test_a_bare_model_chats_in_its_own_template(base: Path) -> None:
    result = run("--base", base, "--dtype", "float32", "--max-new-tokens", 4, typed="hello\n/why\n")
    assert result.exit_code == 0, result.output
    assert "the bare model" in result.stderr
    assert "template chat" in result.stderr
    assert "There is one prompt" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ([], UsageError, "give an adapter folder"),
        (["nowhere/at/all"], AdapterError, "no such adapter folder"),
        (["--base", "/no/model"], ModelError, "/no/model"),
        (["x", "--persona-text", " "], UsageError, "--persona-text: no sentence"),
        (["x", "--persona", "nobody.txt"], DataError, "nobody.txt: no such file"),
        (
            ["x", "--temperature", "-1"],
            UsageError,
            "--temperature: -1.0 is out of range; give a number that is 0 or more",
        ),
        (["x", "--beams", "0"], UsageError, "--beams: 0 is out of range; give a number that is at least 1"),
        (
            ["x", "--top-p", "1.5"],
            UsageError,
            "--top-p: 1.5 is out of range; give a number that is above 0 and at most 1",
        ),
        (["x", "--no-repeat-ngram", "-1"], UsageError, "--no-repeat-ngram: -1 is out of range"),
    ],
)
def test_options_that_cannot_work(arguments: list[str], kind: type[SptError], message: str) -> None:
    problem = failure(run(*arguments))
    assert isinstance(problem, kind)
    assert message in str(problem)


def test_an_unknown_prompt_is_refused_at_the_start(talk: list[object]) -> None:
    assert "--prompt: '3' is no prompt" in str(failure(run(*talk, "--prompt", 3)))


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", "4", "²", "1e0"])
def test_parse_prompt_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="use auto or a number from 0 to 3"):
        parse_prompt(text, count=4, option="--prompt")


# On a terminal


@pytest.fixture
def typist(monkeypatch: pytest.MonkeyPatch) -> list[str | type[BaseException]]:
    """What is typed: lines, or exceptions such as Ctrl-C; then the end of input."""
    lines: list[str | type[BaseException]] = []

    def typed(prompt: str) -> str:
        print(prompt, end="")  # noqa: T201 - as `input` does
        if not lines:
            raise EOFError
        line = lines.pop(0)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(builtins, "input", typed)
    return lines


def shown(engine: FakeEngine, capsys: pytest.CaptureFixture[str], **options: object) -> str:
    """What a terminal shows of a chat with `engine`."""
    session = Session(engine, **options)  # type: ignore[arg-type]
    ChatLoop(session, Screen(interactive=True)).run()
    return capsys.readouterr().out


def test_a_terminal_shows_prompt_reply_and_who_spoke(
    typist: list[str | type[BaseException]], capsys: pytest.CaptureFixture[str]
) -> None:
    typist += ["hello", "/prompt 0", "again", "silence"]
    out = shown(FakeEngine(), capsys)
    assert out.count("you> ") == 5
    assert "bot> prompt 1 answers hello\n     prompt 1\n" in out
    assert "bot> prompt 0 answers again\n     prompt 0, forced\n" in out
    assert "(no reply: the model ended it at once" in out


def test_ctrl_c_at_the_prompt_only_clears_the_line(
    typist: list[str | type[BaseException]], capsys: pytest.CaptureFixture[str]
) -> None:
    typist += [KeyboardInterrupt, "hello"]
    out = shown(FakeEngine(), capsys)
    assert "Ctrl-D or /quit ends" in out
    assert "prompt 1 answers hello" in out


def test_ctrl_c_stops_a_reply_and_its_generation(
    typist: list[str | type[BaseException]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typist += ["story", "hello"]
    engine = FakeEngine()
    stream = engine.stream

    def interrupted(*args: object, **options: object) -> Iterator[Chunk]:
        for chunk in stream(*args, **options):  # type: ignore[arg-type]
            if engine.words == 5:
                signal.raise_signal(signal.SIGINT)
            yield chunk

    monkeypatch.setattr(engine, "stream", interrupted)
    out = shown(engine, capsys)
    assert "bot> word0 word1 word2 word3\n" in out
    assert "(stopped)" in out
    assert "word5" not in out
    assert "prompt 1 answers hello" in out


def test_a_failing_model_does_not_end_the_chat(
    typist: list[str | type[BaseException]], capsys: pytest.CaptureFixture[str]
) -> None:
    typist += ["hello", "break", "again", "/why"]
    out = shown(FakeEngine(), capsys)
    assert "the model failed: out of memory; the conversation is kept" in out
    assert "prompt 1 answers again" in out


def test_messages_cannot_drive_the_terminal(
    typist: list[str | type[BaseException]], capsys: pytest.CaptureFixture[str]
) -> None:
    typist += ["a\x1b]0;title\x07b", "/persona \x1b[2JI sail.", "/prompt \x9b"]
    out = shown(FakeEngine(), capsys)
    assert "bot> prompt 1 answers a]0;titleb\n" in out
    assert not set(out) & {"\x1b", "\x07", "\x9b"}


def test_markup_in_messages_and_replies_is_shown_as_it_is(
    typist: list[str | type[BaseException]], capsys: pytest.CaptureFixture[str]
) -> None:
    typist += ["[bold]hi[/nothing]", "/why", "/persona [red]I sail."]
    out = shown(FakeEngine(), capsys)
    assert "bot> prompt 1 answers [bold]hi[/nothing]\n" in out
    assert "[red]I sail." in out


def test_bars_follow_the_scores() -> None:
    session = Session(FakeEngine(scores=[(0.4, 0.1, 0.0, -0.2)]))  # type: ignore[arg-type]
    list(session.say("hi"))
    table = why_table(session.why())
    assert [len(str(bar)) for bar in table.columns[2].cells] == [12, 3, 0, 0]


def test_why_of_a_mixture_marks_no_prompt_and_gives_the_weights() -> None:
    engine = FakeEngine(scores=[(0.4, 0.1, 0.1, 0.1)], weights=(1.0, 0.0, 0.0, 0.0))
    session = Session(engine, decoding=Decoding(kind="gated"))  # type: ignore[arg-type]
    list(session.say("hi"))
    table = why_table(session.why())
    prompts, weights, replies = ([str(cell) for cell in table.columns[k].cells] for k in (0, 3, 4))
    assert prompts == ["  0", "  1", "  2", "  3"]
    assert weights == ["100%", "0%", "0%", "0%"]
    assert replies == [f"prompt {k} answers hi" for k in range(4)]
    assert "All prompts spoke together" in str(table.caption)
    session.prompt = 2
    list(session.say("and you ?"))
    assert session.why().weights is None, "a forced prompt speaks alone"


SCRIPT = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches this process

from fake_engine import FakeEngine
from sptune.cli.chat_loop import HELP, ChatLoop
from sptune.cli.chat_screen import Screen
from sptune.engine.reranked import RerankingEngine
from sptune.engine.session import Session

ChatLoop(Session(FakeEngine(pause=0.05)), Screen(interactive=True, commands=list(HELP))).run()
print("the end")
"""


class Terminal:
    """A chat in another process, on a terminal of its own."""

    def __init__(self) -> None:
        self._fd, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "PYTHONPATH": str(TESTS), "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(terminal)
        self._shown = ""

    def wait_for(self, text: str, seconds: float = 20) -> str:
        """What was shown up to `text`; fails when it does not come."""
        end = time.monotonic() + seconds
        while text not in self._shown:
            assert time.monotonic() < end, f"{text!r} did not come: {self._shown!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                self._shown += os.read(self._fd, 4096).decode()
        before, _, self._shown = self._shown.partition(text)
        return before

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    window = Terminal()
    yield window
    window.close()


def test_a_real_terminal(terminal: Terminal) -> None:
    terminal.wait_for("you> ")
    terminal.type("story\n")
    terminal.wait_for("word3")
    terminal.type("\x03")  # Ctrl-C
    assert "word50" not in terminal.wait_for("(stopped)")
    terminal.wait_for("you> ")
    terminal.type("hello\n")
    terminal.wait_for("prompt 1 answers hello")
    terminal.wait_for("you> ")
    terminal.type("/wh\t\n")  # completed by readline
    terminal.wait_for("would have said")
    terminal.wait_for("you> ")
    time.sleep(0.2)  # a signal between readline's prompt and its waiting would only be seen at the next key
    terminal.type("half a line\x03")
    terminal.wait_for("Ctrl-D or /quit")
    terminal.wait_for("you> ")
    terminal.type("\x04")  # Ctrl-D
    terminal.wait_for("the end")
    assert terminal.process.wait(timeout=10) == 0
