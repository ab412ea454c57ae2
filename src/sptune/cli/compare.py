"""`sptune compare`: methods over seeds and settings, its report, and how far it is."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from sptune.cli.compare_task import task
from sptune.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sptune.config import Recipe, TuningSettings
    from sptune.experiments.plan import Plan
    from sptune.experiments.tasks import Task

DEFAULT = "run"


class DefaultGroup(TyperGroup):
    """Takes `compare RECIPE` for `compare run RECIPE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front where none is named."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=DefaultGroup, add_completion=False, no_args_is_help=True, rich_markup_mode=None)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a comparison.")]


@app.callback()
def _compare() -> None:
    """Train and evaluate methods with several seeds, and compare them.

    `sptune compare RECIPE` is short for `sptune compare run RECIPE`; `sptune compare run --help` lists its options.

    \b
    Examples:
      sptune compare compare/quick --jobs 2
      sptune compare compare/main data.path=valid_self_original.txt
      sptune compare compare/main data.path=valid_self_original.txt --only pt,spt --seeds 0
      sptune compare status runs/compare/main
      sptune compare report runs/compare/main
    """


@app.command(DEFAULT)
def run(  # noqa: PLR0913, PLR0917 - one parameter an option
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A comparison recipe, or the name of a bundled one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to it, or to the recipe that methods share."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Run so many cells at once; they share the cores.")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD",
            help="Run these methods, or settings like k@prompts.count=8, alone; a,b or repeated.",
        ),
    ] = None,
    seeds: Annotated[
        list[str] | None, typer.Option(metavar="SEED", help="Run these seeds alone; 0,1 or repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Run at most so many cells now.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells once more.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, list the cells, run none.")] = False,
    report: Annotated[bool, typer.Option(help="Write the report when all that was asked for is done.")] = True,
) -> None:
    """Run what is still to be done of a comparison. Stopped in any way, it goes on where it was when it is started again."""
    from sptune.config import load_comparison
    from sptune.experiments.plan import begin, check, make_plan
    from sptune.experiments.tasks import list_tasks

    settings = load_comparison(recipe, overrides or [])
    plan = make_plan(settings, place=f"{recipe} with {' '.join(overrides)}" if overrides else recipe)
    folder = settings.folder
    check(folder, plan)
    plan = replace(plan, data=_check_material(plan))
    check(folder, plan)
    wanted = _chosen(plan, methods=only or (), seeds=seeds or ())
    tasks = list_tasks(folder, wanted)
    if dry_run:
        _list(folder, tasks)
        return
    signal.signal(signal.SIGTERM, _interrupt)
    begin(folder, settings, plan)
    try:
        _run(tasks, tuning=plan.tuning, jobs=jobs, retry=retry_failed, limit=limit)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the state is kept. Go on with: {shlex.join(['sptune', *sys.argv[1:]])}", err=True)
        raise
    _conclude(folder, plan, tasks, report=report)


@app.command("report")
def report_(folder: Folder) -> None:
    """Write report.md, report.html, plots/ and tables/ of a comparison from the files that it keeps; no model is run."""
    from sptune.experiments.report import write_comparison

    written = write_comparison(folder.expanduser())
    for note in written.notes:
        typer.echo(note, err=True)
    typer.echo(f"{written.page} (and report.md, plots/, tables/): {written.cells} cells")


@app.command()
def status(folder: Folder) -> None:
    """Show which cells are done, running, waiting and failed, and which learning rates were tried."""
    from sptune.experiments.plan import read_plan
    from sptune.experiments.status import status_tables

    _print(status_tables(folder.expanduser(), read_plan(folder.expanduser())))


app.command("task", hidden=True)(task)


def _check_material(plan: Plan) -> dict[str, str]:
    """Read every dialogue file that a cell needs, and look for BERTScore's encoder: a fault in one shall not be found an hour later.

    Returns:
        Data settings -> digest of their dialogues.

    Raises:
        DataError: a file cannot be read, or holds dialogues that are trained on and tested on.
        ModelError: the encoder is not on this machine.
    """
    from sptune.data.dialogue import data_hash
    from sptune.evaluation.metrics import bertscore
    from sptune.run_data import load_data

    recipes = [cell.recipe for cell in plan.cells]
    different = {repr((recipe.data, recipe.evaluation)): recipe for recipe in recipes}
    digests, notes = {}, []
    for recipe in different.values():
        data = load_data(recipe)
        digests[_data_settings(recipe)] = data_hash([*data.train, *data.validation, *data.test])
        notes.append(data.note)
    for note in dict.fromkeys(notes):
        if note:
            typer.echo(note, err=True)
    for name in dict.fromkeys(recipe.evaluation.bertscore_model for recipe in different.values()):
        if name is not None and bertscore.installed() and not bertscore.is_here(name):
            raise ModelError(f"evaluation.bertscore_model: {bertscore.not_here(name, 'no such folder or download')}")
    return digests


def _data_settings(recipe: Recipe) -> str:
    """Which dialogues a recipe names, in its own keys."""
    named = {f"data.{key}": value for key, value in recipe.data.model_dump(exclude_defaults=True).items()}
    test = recipe.evaluation.model_dump(include={"path", "split", "limit"}, exclude_none=True)
    named |= {f"evaluation.{key}": value for key, value in test.items()}
    return ", ".join(f"{key}={value}" for key, value in named.items()) or "the recipe"


def _chosen(plan: Plan, *, methods: Sequence[str], seeds: Sequence[str]) -> Plan:
    """The cells that were asked for."""
    names = dict.fromkeys(name for cell in plan.cells for name in (cell.method, cell.label))
    of = _asked("--only", methods, names)
    drawn = _asked("--seeds", seeds, dict.fromkeys(str(cell.seed) for cell in plan.cells))
    cells = (c for c in plan.cells if of & {c.method, c.label} and str(c.seed) in drawn)
    return replace(plan, cells=tuple(cells))


def _asked(option: str, values: Sequence[str], known: Collection[str]) -> set[str]:
    """What an option names, separated by commas where it is no name itself (a setting's may have some); all where it was not given."""
    split = [[value] if value in known else value.split(",") for value in values]
    asked = {name.strip() for names in split for name in names} - {""}
    for name in sorted(asked - set(known)):
        raise UsageError(f"{option}: {name!r} is not in this comparison; it has {', '.join(known)}")
    return asked or set(known)


def _list(folder: Path, tasks: Sequence[Task]) -> None:
    """What a run would do."""
    from sptune.evaluation.table import Table

    cells = [task for task in tasks if task.rate is None]
    rows = tuple((task.cell.label, str(task.cell.seed), task.cell.settings.kind, task.status()) for task in cells)
    left = sum(task.outcome() is None for task in tasks if task.rate is not None)
    _print(
        [Table(f"{folder}: {len(cells)} cells, {left} trials before them", ("method", "seed", "kind", "status"), rows)]
    )


def _run(tasks: Sequence[Task], *, tuning: TuningSettings, jobs: int, retry: bool, limit: int | None) -> None:
    from sptune.experiments.display import GridDisplay
    from sptune.experiments.grid import Grid

    with GridDisplay(tasks, jobs=jobs) as display:
        Grid(tasks, tuning=tuning, jobs=jobs, display=display, retry=retry, limit=limit).run()


def _conclude(folder: Path, plan: Plan, asked: Sequence[Task], *, report: bool) -> None:
    """Say what there is now, and what to do next; write the report where all that was asked for has ended."""
    from sptune.experiments.tasks import list_tasks

    outcomes = {task.name: task.outcome() for task in list_tasks(folder, plan) if task.rate is None}
    wanted = {task.name: outcomes[task.name] for task in asked if task.rate is None}
    done = list(outcomes.values()).count("done")
    failed = [name for name, outcome in wanted.items() if outcome == "failed"]
    typer.echo(f"{folder}: {done} of {len(outcomes)} cells done", err=True)
    if failed:
        hint = f"see `sptune compare status {folder}`, and try again with --retry-failed"
        typer.echo(f"failed: {', '.join(failed)}; {hint}", err=True)
    if report and done and all(wanted.values()):
        report_(folder)
    if failed:
        raise typer.Exit(1)


def _print(tables: Any) -> None:
    """Tables on a terminal, Markdown elsewhere."""
    from sptune.evaluation.table import markdown, print_tables

    if sys.stdout.isatty():
        from rich.console import Console

        print_tables(tables, Console())
    else:
        typer.echo(markdown(tables))


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
