"""`sptune train`: check a recipe and its data, train, evaluate, report."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from sptune.config import KEPT_IN_ADAPTER, Recipe, dump_recipe, load_recipe
from sptune.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from sptune.model.load import LoadedBase
    from sptune.model.spt import SPTModel
    from sptune.run_data import RunData

RECIPE_NAME = "recipe.yaml"

EPILOG = """Examples:

sptune train quickstart

sptune train recipes/convai2-smollm2.yaml data.path=valid_self_original.txt training.epochs=2

sptune train recipes/convai2-smollm2.yaml data.path=valid_self_original.txt --check

sptune train runs/quickstart/recipe.yaml --resume
"""


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file, or a bundled recipe: quickstart, convai2-smollm2, paper/opt-125m, ...",
        ),
    ],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Validate recipe, data and base model; train nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run folder.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what the run folder holds.")] = False,
    evaluate: Annotated[bool, typer.Option(help="Evaluate and report when training ends.")] = True,
) -> None:
    """Train an adapter from a recipe, evaluate it on the test dialogues and write a report."""
    settings = load_recipe(recipe, overrides or [])
    if check:
        _check_folder(settings, resume=resume, force=force or not resume)  # one in use may be replaced or left later
        _check(settings)
        return
    run(settings, resume=resume, force=force, evaluate=evaluate)


def run(recipe: Recipe, *, resume: bool = False, force: bool = False, evaluate: bool = True) -> None:
    """Train, evaluate and report.

    Args:
        recipe: the recipe.
        resume: go on from the newest checkpoint.
        force: replace what the run folder holds, once recipe, data and base model are known to be good.
        evaluate: also evaluate (where the recipe names test dialogues) and report.

    Raises:
        UsageError: the run cannot be resumed with this recipe.
        StorageError: the run folder is in use.
    """
    _check_folder(recipe, resume=resume, force=force)
    from sptune import build, preflight
    from sptune.files import write_text
    from sptune.run_data import load_data
    from sptune.training.progress import ProgressBar

    data = load_data(recipe)
    base = build.load_recipe_base(recipe)
    model = build.make_model(recipe, base=base)
    if evaluate:
        preflight.check_test(recipe, model, data)
        preflight.check_bertscore(recipe)
    bar = ProgressBar()
    trainer = build.make_trainer(recipe, model, data, callbacks=[bar])
    bar.trainer = trainer
    if force:
        _clear(recipe.folder)
    write_text(recipe.folder / RECIPE_NAME, dump_recipe(recipe))
    _say(_summary(recipe, data, model))
    if data.note:
        _say(data.note)
    try:
        with _recorded(recipe):
            trainer.train(resume=resume)
        _say(f"adapter: {recipe.folder / 'adapter'}")
        if evaluate:
            _evaluate(recipe, data, model, base)
            _report(recipe)
    except KeyboardInterrupt:
        bar.close()
        _say(f"interrupted; the state is kept. Go on with: sptune train {recipe.folder / RECIPE_NAME} --resume")
        raise
    finally:
        bar.close()
    _say(f"talk to it: {_chat_command(recipe)}")


@contextmanager
def _recorded(recipe: Recipe) -> Iterator[None]:
    """Keep when, where and how long the run was trained in `run.json`; the time of resumed parts adds up, but for one that was killed."""
    from sptune.report.run_info import describe_run, load_run_info, save_run_info

    try:
        before = load_run_info(recipe.folder)
    except DataError:
        before = None
    command = before.command if before else shlex.join(["sptune", *sys.argv[1:]])
    started = datetime.fromisoformat(before.started) if before else datetime.now(UTC)
    clock = time.monotonic()

    def save() -> None:
        seconds = time.monotonic() - clock + (before.seconds if before else 0)
        save_run_info(recipe.folder, describe_run(command, started=started, seconds=seconds))

    save()
    try:
        yield
    finally:
        save()


def _evaluate(recipe: Recipe, data: RunData, model: SPTModel, base: LoadedBase) -> None:
    from sptune import build
    from sptune.cli.figures import progress_bars
    from sptune.evaluation.run import Source, evaluate

    if not data.test:
        _say("no evaluation: the recipe names no test dialogues (evaluation.path or evaluation.split)")
        return
    e = recipe.evaluation
    settings = build.evaluation_settings(recipe)
    models = {"spt": model}
    if e.base:
        models["base"] = build.make_bare_model(recipe, base=base)
    for name, one in models.items():
        _say(f"evaluating {'the adapter' if name == 'spt' else 'the bare model'} on {len(data.test)} dialogues")
        adapter = str(recipe.folder / "adapter") if name == "spt" else None
        source = Source(adapter=adapter, path=e.path or recipe.data.path, split=e.split, persona=recipe.data.persona)
        with progress_bars() as progress:
            evaluate(
                one,
                data.test,
                settings=settings,
                source=source,
                output=recipe.folder / "evaluation" / name,
                progress=progress,
            )


def _report(recipe: Recipe) -> None:
    from sptune.report import write_report

    write_report(recipe.folder)
    _say(f"report: {recipe.folder / 'report.html'} (and report.md, plots/)")


def _check(recipe: Recipe) -> None:
    from sptune import build, preflight
    from sptune.data.truncation import count_truncation
    from sptune.run_data import load_data

    data = load_data(recipe)
    model = build.make_model(recipe)
    typer.echo(_summary(recipe, data, model))
    for name, dialogues in (("training", data.train), ("validation", data.validation), ("test", data.test)):
        if dialogues:
            found = count_truncation(model.encoder, dialogues)
            typer.echo(
                f"{name}: {len(dialogues)} dialogues, {found.turns} turns; context {found.context_tokens['p50']:.0f} tokens (median), "
                f"{found.context_tokens['max']:.0f} at most; {found.truncated_turns} turns lose old history at template.max_length="
                f"{recipe.template.max_length}, {found.too_long} do not fit"
            )
            if found.too_long:
                raise UsageError(
                    f"{name}: {found.too_long} turns do not fit the base model's window; shorten or leave them out"
                )
    preflight.check_run(recipe, model, data)
    typer.echo("the recipe is good")


def _check_folder(recipe: Recipe, *, resume: bool, force: bool) -> None:
    folder = recipe.folder
    if resume and force:
        raise UsageError("--resume goes on with a run and --force begins it anew; give one of them")
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder}: is a file, not a run folder; choose another with output=FOLDER")
    if resume:
        _check_same(recipe)
    elif not force and any(path.is_file() for path in folder.rglob("*")):
        raise StorageError(
            f"{folder}: the run folder is in use; go on with --resume, replace the run with --force, or choose another with output=FOLDER"
        )


def _clear(folder: Path) -> None:
    """Delete a run's files, and nothing else that lies in its folder."""
    import shutil

    for name in ("adapter", "checkpoints", "evaluation", "plots", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (RECIPE_NAME, "metrics.jsonl", "report.md", "report.html", "run.json"):
        (folder / name).unlink(missing_ok=True)


def _check_same(recipe: Recipe) -> None:
    """A run can only be resumed with the recipe it was begun with, but for its evaluation: anything else would not be the same run."""
    path = recipe.folder / RECIPE_NAME
    if not path.is_file():
        raise UsageError(f"--resume: {recipe.folder} holds no run (no {RECIPE_NAME}); leave --resume out to begin one")
    before, now = _flat(load_recipe(path).model_dump()), _flat(recipe.model_dump())
    changed = [
        f"{key} was {before.get(key)!r}, is {now[key]!r}"
        for key in now
        if before.get(key) != now[key] and not _may_change(key)
    ]
    if changed:
        raise UsageError(
            f"--resume: the recipe differs from the run's own ({path}): {'; '.join(changed)}; give {path} itself"
        )


def _may_change(key: str) -> bool:
    """Whether what a run has trained until now does not depend on a key: where it lies, and how it is evaluated at its end."""
    section, _, name = key.partition(".")
    return key == "output" or (section == "evaluation" and name not in KEPT_IN_ADAPTER)


def _flat(section: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _chat_command(recipe: Recipe) -> str:
    """A chat with the adapter, in which the same speak as in the recipe's evaluation: the adapter says who, but not of how many candidates."""
    how = recipe.evaluation
    persona = '--persona-text "I keep bees." --persona-text "I live by the sea."'
    candidates = f" --candidates {how.rerank.candidates}" if how.decoding == "rerank" else ""
    return f"sptune chat {recipe.folder / 'adapter'} {persona}{candidates}"


def _summary(recipe: Recipe, data: RunData, model: SPTModel) -> str:
    frozen = sum(p.numel() for p in model.backbone.parameters())
    return (
        f"{recipe.model.base} ({frozen / 1e6:.0f}M parameters, frozen, {str(model.backbone.dtype).removeprefix('torch.')} on "
        f"{model.backbone.device}), K={recipe.prompts.count} prompts of L={recipe.prompts.length}, {model.trainable_parameters:,} "
        "trainable parameters\n"
        f"dialogues: {len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test; run folder: {recipe.folder}"
    )


def _say(text: str) -> None:
    typer.echo(text, err=True)


train.epilog = EPILOG  # type: ignore[attr-defined]
