"""`sptune report`: write the report of a run again from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = """Examples:

sptune report runs/quickstart

sptune evaluate runs/quickstart/adapter --data other.txt --output runs/quickstart/evaluation/other

sptune report runs/quickstart
"""


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `sptune train` writes it.")],
) -> None:
    """Write report.md, report.html and plots/ of a run from the files it keeps; nothing is computed by the model.

    Works on runs that are still training, and takes up every evaluation in RUN/evaluation.
    """
    from sptune.report import write_report

    folder = run.expanduser()
    write_report(folder)
    typer.echo(f"{folder / 'report.html'} (and report.md, plots/)")


report.epilog = EPILOG  # type: ignore[attr-defined]
