"""The loop of a chat: each line is a message to reply to, or a command."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sptune.cli.chat_screen import Screen, why_table
from sptune.data.persona import split_persona
from sptune.errors import SptError, UsageError

if TYPE_CHECKING:
    from sptune.engine.base import Chunk
    from sptune.engine.session import Session

HELP = {
    "/persona": "show who replies; `/persona I sail. | I bake.` or `/persona none` sets it, for a new conversation",
    "/why": "the last reply: scores of the prompts, and what each would have said",
    "/prompt": "`/prompt 2` makes prompt 2 reply from now on, `/prompt auto` lets the retriever choose again",
    "/retry": "another reply to your last message, from the same prompt",
    "/reset": "begin a new conversation with the same persona",
    "/save": "`/save FILE` writes the conversations to a JSONL file, `/save! FILE` also over an existing one",
    "/help": "this list",
    "/quit": "end the chat; so does Ctrl-D. Ctrl-C stops a reply",
}


_EMPTY = "(no reply: the model ended it at once; /retry asks again)"
_STOPPED = "(stopped before the first word)"


@dataclass(frozen=True, slots=True)
class _Line:
    """A command line: `/save! talk.jsonl` is command `/save`, with force, about `talk.jsonl`."""

    command: str
    force: bool
    about: str


class ChatLoop:
    """Reads lines from a screen until it ends or `/quit`.

    Args:
        session: the conversation.
        screen: where to read and show.
    """

    def __init__(self, session: Session, screen: Screen) -> None:
        self._session = session
        self._screen = screen
        self._commands: dict[str, Callable[[_Line], None]] = {
            "/persona": self._persona,
            "/why": self._why,
            "/prompt": self._prompt,
            "/retry": self._retry,
            "/reset": self._reset,
            "/save": self._save,
            "/help": self._help,
        }

    def run(self) -> None:
        """Chat until the input ends. Ctrl-C and errors end a reply, not the chat.

        Raises:
            KeyboardInterrupt: Ctrl-C while waiting for input from a pipe.
        """
        while True:
            try:
                line = self._screen.read().strip()
            except EOFError:
                if self._screen.interactive:
                    self._screen.note("")
                return
            except KeyboardInterrupt:
                if not self._screen.interactive:
                    raise
                self._screen.note("\n(Ctrl-D or /quit ends the chat)")
                continue
            if line == "/quit":
                return
            if line:
                self._guarded(line)

    def _guarded(self, line: str) -> None:
        try:
            self._handle(line)
        except KeyboardInterrupt:
            self._screen.note("(stopped)")
        except SptError as error:
            self._screen.error(str(error))
        except OSError as error:  # of a path that may not be looked at, or is too long to be one
            if error.filename is None:
                raise
            self._screen.error(f"{error.filename}: {error.strerror}; the conversation is kept: choose another path")
        except (RuntimeError, MemoryError) as error:  # torch out of memory, above all
            self._screen.error(f"the model failed: {error}; the conversation is kept: try a shorter message, or /reset")

    def _handle(self, line: str) -> None:
        if not line.startswith("/"):
            self._speak(self._session.say(line))
            return
        name, _, about = line.partition(" ")
        command = self._commands.get(name.removesuffix("!"))
        if command is None:
            raise UsageError(_unknown(name))
        command(_Line(name.removesuffix("!"), name.endswith("!"), about.strip()))

    def _speak(self, chunks: Generator[Chunk, None, None]) -> None:
        before = self._session.last
        try:
            with closing(chunks):
                self._screen.reply(chunks)
        finally:
            self._after(before is self._session.last)

    def _after(self, unchanged: bool) -> None:
        """Say which prompt spoke, and whether there is anything to see."""
        last = self._session.last
        if unchanged or last is None:
            return
        if not last.text:
            self._screen.note(_EMPTY if last.complete else _STOPPED)
        elif self._screen.interactive and self._session.engine.num_prompts > 1:
            how = {
                "retriever": "",
                "kept": ", kept from the turn before",
                "forced": ", forced",
                "candidate": ", the best candidate's",
            }[last.reason]
            self._screen.note(f"     prompt {last.selection.prompt}{how}")

    def _persona(self, line: _Line) -> None:
        if line.about:
            sentences = () if line.about == "none" else split_persona(line.about)
            if not sentences and line.about != "none":
                raise UsageError("/persona: no sentence given; write /persona I sail. | I bake.")
            self._session.reset(sentences)
            self._screen.note("a new conversation begins")
        self._screen.note("\n".join(self._session.persona) or "no persona; /persona I sail. | I bake. sets one")

    def _why(self, _: _Line) -> None:
        with self._screen.busy("asking the other prompts"):
            why = self._session.why()
        self._screen.show(why_table(why))

    def _prompt(self, line: _Line) -> None:
        if line.about == "auto":
            self._session.prompt = None
        elif line.about:
            self._session.prompt = parse_prompt(line.about, count=self._session.engine.num_prompts, option="/prompt")
        forced = self._session.prompt
        self._screen.note("the retriever chooses the prompt" if forced is None else f"prompt {forced} replies")

    def _retry(self, _: _Line) -> None:
        chunks = self._session.retry()
        last = self._session.last
        if last is not None:
            self._screen.note(f"(another draw for: {last.context.turns[-1].user})")
        self._speak(chunks)

    def _reset(self, _: _Line) -> None:
        self._session.reset()
        self._screen.note("a new conversation begins")

    def _save(self, line: _Line) -> None:
        if not line.about:
            raise UsageError("/save: no file named; write /save talks.jsonl")
        path = Path(line.about).expanduser()
        if path.is_file() and not line.force:
            raise UsageError(f"/save: {path} exists; `/save! {path}` replaces it")
        count = self._session.save(path, force=line.force)
        self._screen.note(f"{path}: {count} conversation{'' if count == 1 else 's'} written")

    def _help(self, _: _Line) -> None:
        width = max(map(len, HELP))
        self._screen.note("\n".join(f"{name:<{width}}  {text}" for name, text in HELP.items()))


def parse_prompt(text: str, *, count: int, option: str) -> int | None:
    """The number of a forced prompt, or None for `auto`.

    Args:
        text: what the user gave.
        count: K.
        option: where they gave it, for the message.

    Raises:
        UsageError: neither `auto` nor a number from 0 to K-1.

    >>> parse_prompt("2", count=4, option="--prompt")
    2
    """
    if text == "auto":
        return None
    if text.isascii() and text.isdigit() and int(text) < count:
        return int(text)
    numbers = f"a number from 0 to {count - 1}" if count > 1 else "0, the only prompt"
    raise UsageError(f"{option}: {text!r} is no prompt of this adapter; use auto or {numbers}")


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name.lower(), HELP, n=1, cutoff=0.5)
    return f"{name}: no such command; " + (f"did you mean {nearest[0]}?" if nearest else "/help lists them")
