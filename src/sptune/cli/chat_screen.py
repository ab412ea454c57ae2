"""What a chat reads and shows: colours and streaming on a terminal, one plain line for each reply in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sptune.data.lines import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sptune.engine.base import Chunk
    from sptune.engine.session import Why

BAR_WIDTH = 12  # columns of the longest score bar


class Screen:
    """Standard input, output and error of a chat.

    Args:
        interactive: someone types at a terminal and reads from it; else replies go to standard output, one a line, and
            all else to standard error.
        commands: what the tabulator completes.
    """

    def __init__(self, *, interactive: bool, commands: Sequence[str] = ()) -> None:
        self.interactive = interactive
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError, OSError):
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a bad byte must not end the chat
        self._console = Console(highlight=False) if interactive else _plain_console()
        if interactive:
            _edit_lines(commands)

    def read(self) -> str:
        """The next line the user typed.

        Raises:
            EOFError: there is none.
        """
        if self.interactive:
            return input("you> ")
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def note(self, text: str, *, style: str = "dim") -> None:
        """Say something that is not a reply."""
        self._console.print(Text(clean(text), style=style), soft_wrap=not self.interactive)

    def error(self, text: str) -> None:
        """Say what went wrong."""
        self.note(text, style="red")

    def show(self, renderable: Any) -> None:
        """Show a table or another thing that rich can render."""
        self._console.print(renderable)

    def busy(self, text: str) -> AbstractContextManager[Any]:
        """Something to look at during a wait."""
        return self._console.status(Text(text, style="dim")) if self.interactive else nullcontext()

    def reply(self, chunks: Iterable[Chunk]) -> None:
        """Show a reply while it comes; what was shown stays when an exception ends it."""
        texts = (chunk.text for chunk in chunks)
        if self.interactive:
            self._stream(texts)
        else:
            _print_line(texts)

    def _stream(self, texts: Iterator[str]) -> None:
        with self.busy("thinking"):
            first = next(texts, "")
        self._console.print(Text("bot> ", style="bold green"), end="")
        self._console.print(Text(first), end="", soft_wrap=True)
        try:
            for text in texts:
                self._console.print(Text(text), end="", soft_wrap=True)
        finally:
            self._console.print()


def _print_line(texts: Iterator[str]) -> None:
    """A reply as one line, also an empty or broken one: line n of the output answers message n of the input."""
    said: list[str] = []
    try:
        said.extend(texts)
    finally:
        sys.stdout.write(" ".join("".join(said).splitlines()) + "\n")
        sys.stdout.flush()


def why_table(why: Why) -> Table:
    """The K prompts, their scores as bars, and what each said or would have said; the one that spoke is marked.

    Where they spoke together, none is marked, and each has its weight.
    """
    selection = why.exchange.selection
    weight = ["weight"] if why.weights else []
    table = Table("prompt", "score", "", *weight, "would have said", show_lines=True, caption_justify="left")
    best = max(selection.scores)
    for k, (score, text) in enumerate(zip(selection.scores, why.replies, strict=True)):
        chosen = k == selection.prompt and not why.weights
        bar = "█" * round(BAR_WIDTH * max(0.0, score) / best) if best > 0 else ""
        share = [f"{why.weights[k]:.0%}"] if why.weights else []
        said = Text(text) if text else Text("(nothing)", style="dim")
        name = f"→ {k}" if chosen else f"  {k}"
        table.add_row(name, f"{score:.4f}", bar, *share, said, style="bold green" if chosen else "")
    table.caption = _caption(why)
    return table


def _caption(why: Why) -> str:
    selection = why.exchange.selection
    if len(selection.scores) == 1:
        return "There is one prompt, so there was nothing to choose."
    if why.weights:
        return "All prompts spoke together, at every token by their weights; a row is what that prompt alone would have said."
    best = selection.scores.index(max(selection.scores))
    reasons = {
        "retriever": "it scores best for this context.",
        "kept": f"kept from the turn before (prompt {best} scores best now, but not by enough).",
        "forced": f"forced with /prompt (prompt {best} scores best).",
        "candidate": f"of all candidates, one of its own was chosen (prompt {best} scores best).",
    }
    return (
        f"Prompt {selection.prompt} spoke: {reasons[why.exchange.reason]} "
        f"Margin {selection.margin:.4f} (best score minus second best)."
    )


def _plain_console() -> Console:
    return Console(stderr=True, color_system=None, highlight=False, force_terminal=False)


def _edit_lines(commands: Sequence[str]) -> None:
    """Line editing, history and completion of commands, where Python has readline."""
    with suppress(ImportError):
        import readline

        def complete(text: str, state: int) -> str | None:
            matches = [command for command in commands if text.startswith("/") and command.startswith(text)]
            return matches[state] if state < len(matches) else None

        readline.set_completer_delims(" \t\n")
        readline.set_completer(complete)
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
