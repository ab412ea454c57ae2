"""The process of one cell of a comparison, which `sptune compare` starts; it is not listed among the commands."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sptune.errors import SptError

if TYPE_CHECKING:
    from sptune.config import Recipe
    from sptune.evaluation.run import Settings
    from sptune.experiments.cells import Cell
    from sptune.experiments.material import Material
    from sptune.experiments.plan import Plan
    from sptune.experiments.tasks import Task


def task(
    folder: Annotated[Path, typer.Argument()],
    label: Annotated[str, typer.Argument()],
    seed: Annotated[int, typer.Argument()],
    rate: Annotated[float | None, typer.Option()] = None,
    retry: Annotated[bool, typer.Option("--retry")] = False,
) -> None:
    """One cell, or one trial of a learning rate, in a process of its own; it stops when its standard input ends."""
    from sptune.experiments.claim import claimed
    from sptune.experiments.grid import STOPPED, TAKEN
    from sptune.experiments.plan import read_plan
    from sptune.experiments.tasks import Task

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    plan = read_plan(folder)
    wanted = Task(folder, plan.cell(label, seed), rate)
    try:
        with claimed(wanted.folder) as held:
            outcome = wanted.outcome() if held else "done"
            if outcome == "done" or (outcome == "failed" and not retry):  # another grid was quicker
                raise typer.Exit(TAKEN)
            attempt(wanted, plan)
    except KeyboardInterrupt:
        raise typer.Exit(STOPPED) from None


def attempt(wanted: Task, plan: Plan) -> None:
    """Run a task; where it fails, record why.

    Raises:
        typer.Exit: it failed.
    """
    from sptune.experiments.grid import FAILED, LAST_LINES

    wanted.begin_again()
    try:
        do_task(wanted, plan)
    except SptError as error:
        reason = str(error)
        typer.echo(reason, err=True)
    except Exception:  # whatever it is, the other cells go on
        last = traceback.format_exc().splitlines()
        reason = "\n".join([last[-1], *last[-LAST_LINES:-1]])
        traceback.print_exc()
    else:
        return
    wanted.fail(reason, tuning=plan.tuning)
    raise typer.Exit(FAILED)


def do_task(wanted: Task, plan: Plan) -> None:
    """Run a task in this process.

    Raises:
        SptError: training or evaluation failed.
    """
    from sptune.experiments.run_cell import run_cell
    from sptune.experiments.run_trial import run_trial, trial_recipe
    from sptune.experiments.trials import choose_rate

    cell = wanted.cell
    if wanted.rate is not None:
        material = _material(cell, trial_recipe(cell, plan.tuning))
        run_trial(wanted.comparison, cell, material, rate=wanted.rate, tuning=plan.tuning)
        return
    rate = choose_rate(wanted.comparison, cell)
    run_cell(cell, wanted.folder, _material(cell, cell.recipe), rate=rate, probe=plan.probe)


def _material(cell: Cell, recipe: Recipe) -> Material:
    """What a cell works with.

    Raises:
        SptError: test dialogues that do not fit the base model's window, among all else that is wrong with data or model.
    """
    from sptune import build
    from sptune.baselines.make import make_method
    from sptune.evaluation.run import Source
    from sptune.experiments.material import Material
    from sptune.preflight import check_test
    from sptune.run_data import load_data

    data = load_data(recipe)
    base = build.load_recipe_base(recipe)
    check_test(recipe, build.make_bare_model(recipe, base=base), data)  # before hours of training, not after
    e = recipe.evaluation
    return Material(
        method=make_method(cell.settings, recipe=recipe, base=base, build=build),
        train=data.train,
        validation=data.validation,
        test=data.test,
        evaluation=_evaluation(recipe),
        source=Source(path=e.path or recipe.data.path, split=e.split, persona=recipe.data.persona),
    )


def _evaluation(recipe: Recipe) -> Callable[[str], Settings]:
    """How to evaluate under each of the values of `evaluation.decoding`."""
    from sptune import build

    def settings(name: str) -> Settings:
        evaluation = recipe.evaluation.model_copy(update={"decoding": name})
        return build.evaluation_settings(recipe.model_copy(update={"evaluation": evaluation}))

    return settings


def _stop_at_end_of_input() -> None:
    """Wait until the process that started this one closes the pipe to it, or dies; then do as on Ctrl-C."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)
