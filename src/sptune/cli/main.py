"""The `sptune` command: its subcommands, and what a user sees when something is wrong."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from sptune import __version__
from sptune.errors import EXIT_CODES, SptError, StorageError, UsageError, exit_code

# command -> (module, attribute, help); a command's module is imported when it is called, so that `sptune --help` is quick
COMMANDS: dict[str, tuple[str, str, str]] = {
    "train": ("sptune.cli.train", "train", "Train an adapter from a recipe, evaluate it and write a report."),
    "evaluate": ("sptune.cli.evaluate", "evaluate", "Measure an adapter, or a bare model, on dialogues."),
    "rerank": ("sptune.cli.rerank", "rerank", "Choose among kept candidates again, with other weights."),
    "robustness": ("sptune.cli.robustness", "robustness", "Disturb an adapter's input and see what moves."),
    "compare": ("sptune.cli.compare", "app", "Train and evaluate methods with several seeds, and compare them."),
    "chat": ("sptune.cli.chat", "chat", "Talk to an adapter, and see why a prompt was chosen."),
    "serve": ("sptune.cli.serve", "serve", "Serve adapters over HTTP, with OpenAI's protocol and a chat page."),
    "report": ("sptune.cli.report", "report", "Write the report of a run again from its files."),
    "data": ("sptune.cli.data", "app", "Show, check and convert dialogue files."),
    "export": ("sptune.cli.export", "export", "Write a prompt as a stock PEFT adapter."),
    "import": ("sptune.cli.export", "import_", "Make an adapter from PEFT prompt-tuning adapters."),
    "doctor": ("sptune.cli.doctor", "doctor", "Say what this machine has, and what is missing."),
}


class LazyGroup(TyperGroup):
    """Imports a subcommand when it is called, and lists the others without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name.

        Raises:
            UsageError: there is none; names the nearest.
        """
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
            raise UsageError(f"{cmd_name}: no such command; {hint}")
        module, attribute, _ = COMMANDS[cmd_name]
        return typer.main.get_command(_as_app(cmd_name, getattr(import_module(module), attribute)))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of `sptune --help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def _as_app(name: str, target: Any) -> typer.Typer:
    if isinstance(target, typer.Typer):
        return target
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, epilog=getattr(target, "epilog", None))(target)
    return app


app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sptune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Selective Prompt Tuning: make a frozen language model talk like someone.

    Start here:  sptune train quickstart  (then: sptune chat runs/quickstart/adapter)
    """


def main() -> None:
    """Entry point: a problem the user can fix ends in one message on standard error and its own exit code."""
    try:
        app()
    except SptError as error:
        typer.echo(f"sptune: {error}", err=True)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        typer.echo("sptune: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        # of a path that may not be looked at, or is too long to be one: there even `exists` raises
        if error.filename is None:
            raise
        typer.echo(f"sptune: {error.filename}: {error.strerror}; check the path and its permissions", err=True)
        sys.exit(EXIT_CODES[StorageError])


if __name__ == "__main__":
    main()
