"""Writes the report of a comparison, out of the files that its folder keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sptune.experiments.report.closing_section import missing_section, reproduction_section
from sptune.experiments.report.compared_section import compared_section
from sptune.experiments.report.controls import Controls, controls_of
from sptune.experiments.report.controls_section import controls_section
from sptune.experiments.report.differences_section import differences_section
from sptune.experiments.report.figures import GRID_PREFIX, NAMES, make_figures
from sptune.experiments.report.findings import Findings, find
from sptune.experiments.report.folder import Comparison, Fault, read_comparison
from sptune.experiments.report.results_section import results_section
from sptune.experiments.report.short_section import ranked, short_section
from sptune.experiments.report.tables import TABLES_NAME, make_tables, write_tables
from sptune.experiments.report.tuning_section import tuning_section
from sptune.files import storage_errors, write_atomically, write_text
from sptune.report.document import Document, Plot, Section
from sptune.report.figures import RunPlot
from sptune.report.markdown import to_markdown
from sptune.report.page import to_page
from sptune.report.write import MARKDOWN_NAME, PAGE_NAME, PLOTS_NAME


@dataclass(frozen=True, slots=True)
class WrittenComparison:
    """What was written, and what could not be.

    Attributes:
        markdown: `report.md`.
        page: `report.html`.
        plots: `plots/*.png`.
        tables: `tables/*.csv` and `tables/*.json`.
        cells: how many cells are in the tables.
        faults: the cells that are not, and why.
        notes: what in the folder is damaged.
    """

    markdown: Path
    page: Path
    plots: tuple[Path, ...]
    tables: tuple[Path, ...]
    cells: int
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def write_comparison(folder: str | Path) -> WrittenComparison:
    """Write `report.md`, `report.html`, `plots/*.png` and `tables/*` into a comparison's folder, out of its other files alone.

    Cells that failed or are not finished are left out, and named. Comparisons that are still running can be reported on.

    Args:
        folder: what `sptune compare` wrote.

    Raises:
        DataError: there is no comparison in the folder.
        StorageError: the report cannot be written.
    """
    comparison, place = read_comparison(folder), Path(folder)
    findings = find(comparison.systems, comparison.reference)
    controls = [found for system in comparison.under_top1 if (found := controls_of(system))]
    plots = make_figures(comparison, findings, ranked(comparison, findings))
    document = make_document(comparison, findings, controls, plots={name: one.plot for name, one in plots.items()})
    pictures = _write_plots(place / PLOTS_NAME, plots)
    tables = write_tables(place / TABLES_NAME, make_tables(comparison, findings, controls))
    write_text(place / MARKDOWN_NAME, to_markdown(document))
    write_text(place / PAGE_NAME, to_page(document, plots))
    return WrittenComparison(
        markdown=place / MARKDOWN_NAME,
        page=place / PAGE_NAME,
        plots=pictures,
        tables=tables,
        cells=len(comparison.cells),
        faults=comparison.faults,
        notes=comparison.notes,
    )


def make_document(
    comparison: Comparison, findings: Findings, controls: Sequence[Controls], *, plots: Mapping[str, Plot]
) -> Document:
    """What the report says, with those of the plots that there are."""

    def shown(*names: str) -> list[Plot]:
        return [plots[name] for name in names if name in plots]

    grids = tuple(plot for name, plot in plots.items() if name.startswith(GRID_PREFIX))
    sections = (
        short_section(comparison, findings, shown("gains")),
        compared_section(comparison),
        results_section(comparison, findings, shown("quality")),
        differences_section(comparison, findings),
        Section("Grids", grids) if grids else None,
        controls_section(comparison, controls, shown("usage")),
        Section("Training", tuple(shown("curves"))) if shown("curves") else None,
        tuning_section(comparison),
        reproduction_section(comparison),
        missing_section(comparison),
    )
    return Document(
        f"Comparison: {comparison.name}", _subtitle(comparison), tuple(section for section in sections if section)
    )


def _subtitle(comparison: Comparison) -> str:
    seeds = {cell.record.seed for cell in comparison.cells}
    systems, cells, further = len(comparison.under_top1), len(comparison.cells), len(comparison.systems)
    rows = f" ({further} with their further decodings)" if further > systems else ""
    against = f", against {comparison.reference.name}" if comparison.reference else ""
    return f"{systems} systems{rows} over {len(seeds)} seed{'s' * (len(seeds) != 1)}, {cells} cells{against}"


def _write_plots(folder: Path, plots: Mapping[str, RunPlot]) -> tuple[Path, ...]:
    """Write the plots, and remove those of an earlier report that this one has not."""
    paths = {name: folder / f"{name}.png" for name in plots}
    for old in (*(folder / f"{name}.png" for name in NAMES), *folder.glob(f"{GRID_PREFIX}*.png")):
        if old not in paths.values():
            with storage_errors(old):
                old.unlink(missing_ok=True)
    for name, path in paths.items():
        write_atomically(path, partial(_write, plots[name].light))
    return tuple(paths.values())


def _write(picture: bytes, path: Path) -> None:
    path.write_bytes(picture)
