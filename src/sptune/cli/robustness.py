"""`sptune robustness`: how far choices of prompts and metrics move when inputs or scores are disturbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sptune.cli.evaluate import (
    DTYPES,
    Device,
    Dtype,
    Format,
    Limit,
    MaxNewTokens,
    OnError,
    Persona,
    Profile,
    Split,
    TokenBudget,
)
from sptune.cli.figures import echo_tables, progress_bars
from sptune.errors import UsageError

if TYPE_CHECKING:
    from sptune.experiments.robustness.result import RobustnessResult

Adapter = Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter folder, or a hub id owner/name.")]
Data = Annotated[str, typer.Option(help="Dialogue file, sample:test, or hub:owner/name.")]
Perturb = Annotated[str, typer.Option(help="What to do to the inputs, separated by commas; all, or none.")]
Noise = Annotated[str, typer.Option(help="Standard deviations of noise on the scores, separated by commas; or none.")]
Parts = Annotated[str, typer.Option(help="What to measure: likelihood, ranking, generation.")]
Base = Annotated[str | None, typer.Option(help="Where the adapter's base model lies.")]
Output = Annotated[Path | None, typer.Option(help="Folder for robustness.json, report.md and the turns behind them.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a test that is in the output folder.")]
Samples = Annotated[int, typer.Option(min=1, help="Resamples of the bootstrap.")]
Seed = Annotated[int, typer.Option(help="Of the perturbations and the noise.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print robustness.json instead of tables.")]


def robustness(  # noqa: PLR0913, PLR0917 - one parameter an option
    adapter: Adapter,
    data: Data = "sample:test",
    split: Split = None,
    perturb: Perturb = "all",
    noise: Noise = "0.01,0.1",
    parts: Parts = "likelihood",
    seed: Seed = 0,
    base: Base = None,
    output: Output = None,
    force: Force = False,
    samples: Samples = 1000,
    profile: Profile = "paper",
    max_new_tokens: MaxNewTokens = 32,
    format: Format = "auto",
    persona: Persona = "self",
    on_error: OnError = "stop",
    limit: Limit = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    token_budget: TokenBudget = 8192,
    as_json: AsJson = False,
) -> None:
    """Disturb what an adapter reads, or its scores, and see how far its choices and its figures move.

    \b
    Inputs: typos, case, shuffle, irrelevant, contradiction, injection, language, history (docs/robustness.md).
    Examples:
      sptune robustness runs/quickstart/adapter --data sample:test --output runs/quickstart/robustness
      sptune robustness ADAPTER --data valid.txt --split 751:800 --parts likelihood,generation
      sptune robustness ADAPTER --data valid.txt --perturb typos,case --noise none
    """
    from sptune.data.load import load_dialogues
    from sptune.evaluation.run import Settings as EvaluationSettings
    from sptune.evaluation.run import Source
    from sptune.experiments.robustness.perturbation import NAMES
    from sptune.experiments.robustness.run import Settings, run
    from sptune.model.generate import Decoding
    from sptune.model.spt import SPTModel

    settings = Settings(
        perturbations=NAMES if perturb == "all" else _listed(perturb),
        noise=tuple(_number(one) for one in _listed(noise)),
        evaluation=EvaluationSettings(
            parts=_listed(parts),  # type: ignore[arg-type]  # it checks its values
            profile=profile,
            decoding=Decoding(max_new_tokens=max_new_tokens, kind="top1"),
            seed=seed,
            limit=limit,
            token_budget=token_budget,
        ),
        samples=samples,
    )
    if dtype not in DTYPES:
        raise UsageError(f"--dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    if output:
        _check_free(output, force)
    dialogues = load_dialogues(data, format=format, persona=persona, on_error=on_error, split=split)
    model = SPTModel.from_pretrained(adapter, base=base, dtype=dtype, device=device)  # type: ignore[arg-type]
    source = Source(adapter, data, split, persona)
    with progress_bars() as progress:
        result = run(model, dialogues, settings=settings, source=source, output=output, progress=progress)
    _show(result, output, as_json)


def _check_free(output: Path, force: bool) -> None:
    """Refuse a folder that holds a test, unless it may be replaced, or anything else."""
    from sptune.experiments.robustness.report import PLOTS_NAME, REPORT_NAME
    from sptune.experiments.robustness.run import RESULT_NAME, is_condition

    if (output / RESULT_NAME).exists():
        if not force:
            raise UsageError(
                f"--output: {output / RESULT_NAME} exists; use --force to replace it, or name another folder"
            )
        return
    names = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    own = (PLOTS_NAME, REPORT_NAME)  # an interrupted test leaves folders of conditions
    other = next((name for name in names if name not in own and not is_condition(name)), None)
    if other:
        raise UsageError(f"--output: {output} holds {other}, which is of no robustness test; name a folder of its own")


def _listed(text: str) -> tuple[str, ...]:
    """Names separated by commas; `none` is none."""
    return () if text.strip() == "none" else tuple(part.strip() for part in text.split(",") if part.strip())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--noise: {text!r} is no number; write numbers above 0, as in 0.01,0.1, or none") from None


def _show(result: RobustnessResult, output: Path | None, as_json: bool) -> None:
    """Write the report, and print tables on a terminal, Markdown elsewhere, or JSON."""
    from sptune.experiments.robustness.report import caption, tables, write_report

    if output:
        write_report(output, result)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    else:
        echo_tables(caption(result), tables(result))
    typer.echo(f"report: {output / 'report.md'}" if output else "nothing was kept; --output FOLDER keeps it", err=True)
