"""Writes the report of a run folder, out of the files that the run keeps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sptune.files import storage_errors, write_atomically, write_text
from sptune.report.closing import missing_section, next_section, reproduction_section, training_section
from sptune.report.differences import differences
from sptune.report.document import Document, Plot
from sptune.report.figures import NAMES, RunPlot, make_plots
from sptune.report.markdown import to_markdown
from sptune.report.overview import run_section, short_section, subtitle
from sptune.report.page import to_page
from sptune.report.results import results_section
from sptune.report.run_folder import RunFolder, read_run
from sptune.report.samples import samples_section
from sptune.report.selection import selection_section

PLOTS_NAME, MARKDOWN_NAME, PAGE_NAME = "plots", "report.md", "report.html"


def write_report(run_folder: str | Path) -> None:
    """Write `report.md`, `report.html` and `plots/*.png` into a run folder, out of its other files alone.

    What the folder does not hold is left out, and the report says so. Runs that are still training can be reported on.

    Args:
        run_folder: what `sptune train` wrote.

    Raises:
        DataError: there is no run in the folder.
        StorageError: the report cannot be written.
    """
    run = read_run(run_folder)
    plots = make_plots(run)
    document = make_document(run, {name: one.plot for name, one in plots.items()})
    folder = Path(run_folder)
    _write_plots(folder / PLOTS_NAME, plots)
    write_text(folder / MARKDOWN_NAME, to_markdown(document))
    write_text(folder / PAGE_NAME, to_page(document, plots))


def make_document(run: RunFolder, plots: Mapping[str, Plot]) -> Document:
    """What the report of `run` says, with those of the plots that there are."""

    def shown(*names: str) -> list[Plot]:
        return [plots[name] for name in names if name in plots]

    found = differences(run.main, run.bare) if run.main and run.bare else {}
    sections = (
        short_section(run, found),
        run_section(run),
        results_section(run, found, plots.get("comparison")),
        selection_section(run, shown("scores", "usage", "similarity")),
        training_section(shown("losses")),
        samples_section(run),
        next_section(run),
        reproduction_section(run),
        missing_section(run),
    )
    return Document(f"Report: {run.name}", subtitle(run), tuple(section for section in sections if section))


def _write_plots(folder: Path, plots: Mapping[str, RunPlot]) -> None:
    """Write the plots, and remove those of an earlier report that this one has not."""
    for name in NAMES:
        path = folder / f"{name}.png"
        if name in plots:
            write_atomically(path, partial(_write, plots[name].light))
        else:
            with storage_errors(path):
                path.unlink(missing_ok=True)


def _write(picture: bytes, path: Path) -> None:
    path.write_bytes(picture)
