"""Everything that the folder of a comparison keeps, read with patience: what is missing or damaged is noted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sptune.config import ComparisonSettings, load_comparison
from sptune.config.compare import TOP1
from sptune.errors import DataError, SptError
from sptune.experiments.cells import label_of, settings_of
from sptune.experiments.folders import CELLS
from sptune.experiments.plan import SETTINGS_NAME
from sptune.experiments.report.kept_cell import DONE, KeptCell, read_cell
from sptune.experiments.report.system import System, with_decoding
from sptune.experiments.tuning_log import Trial, read_trials


@dataclass(frozen=True, slots=True)
class Fault:
    """A cell that is not in the tables: which one, and why."""

    label: str
    seed: int
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison as its files tell it.

    Attributes:
        folder: where it is.
        settings: `compare.yaml`; None where it is missing or cannot be read.
        settings_text: the file as it is.
        systems: those with at least one complete cell, in the order of the settings; behind each its further decodings
            whose replies were measured with every seed.
        reference: what gains and differences are against; None where it is not known or has no complete cell.
        trials: of learning rates.
        faults: cells that failed, are not finished, or were not begun.
        notes: what is damaged.
    """

    folder: Path
    settings: ComparisonSettings | None
    settings_text: str
    systems: tuple[System, ...]
    reference: System | None
    trials: tuple[Trial, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The settings' name, or the folder's."""
        return self.settings.name if self.settings else self.folder.resolve().name

    @property
    def under_top1(self) -> list[System]:
        """The systems under their ordinary decoding: each method and setting once, with all that it was trained to."""
        return [system for system in self.systems if system.decoding == TOP1]

    @property
    def cells(self) -> list[KeptCell]:
        """The complete cells of all systems, each once."""
        return [cell for system in self.under_top1 for cell in system.cells]

    def decodings_of(self, system: System) -> list[str]:
        """The decodings under which the method and setting of `system` stand in the tables."""
        folder = system.cells[0].label
        return [one.decoding for one in self.systems if one.cells[0].label == folder]


def read_comparison(folder: str | Path) -> Comparison:
    """Read the folder of a comparison.

    Raises:
        DataError: there is no such folder, or nothing of a comparison in it.
    """
    place = Path(folder)
    if not (place / SETTINGS_NAME).exists() and not (place / CELLS).is_dir():
        raise DataError(
            f"{place}: holds no comparison (no {SETTINGS_NAME} or {CELLS}/); "
            "give a folder that `sptune compare` wrote, such as runs/compare/NAME"
        )
    notes: list[str] = []
    settings = _settings(place, notes)
    folders = sorted((place / CELLS).glob("*/seed-*"))
    cells = [cell for path in folders if (cell := read_cell(path, notes))]
    systems = _systems(cells, settings, notes)
    return Comparison(
        folder=place,
        settings=settings,
        settings_text=_text(place / SETTINGS_NAME),
        systems=systems,
        reference=_reference(systems, settings, notes),
        trials=read_trials(place, notes),
        faults=tuple(_faults(cells, settings)),
        notes=tuple(note.replace(f"{place}/", "") for note in notes),
    )


def _settings(place: Path, notes: list[str]) -> ComparisonSettings | None:
    if not (place / SETTINGS_NAME).exists():
        notes.append(
            f"{SETTINGS_NAME} is missing: the report does not know the reference, nor which cells are missing."
        )
        return None
    try:
        return load_comparison(place / SETTINGS_NAME)
    except SptError as error:
        notes.append(f"{error}. So the report does not know the reference, nor which cells are missing.")
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _planned(settings: ComparisonSettings) -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    """Method, setting and seeds of every system that there should be."""
    for name, method in settings.methods.items():
        for setting in settings_of(method):
            yield name, setting, settings.seeds_of(method)


def _key(method: str, setting: dict[str, Any]) -> str:
    return json.dumps([method, setting], sort_keys=True)


def _systems(cells: Sequence[KeptCell], settings: ComparisonSettings | None, notes: list[str]) -> tuple[System, ...]:
    """The complete cells by method, setting and decoding; those that the settings do not name come last."""
    groups: dict[str, list[KeptCell]] = {
        _key(method, setting): [] for method, setting, _ in (_planned(settings) if settings else ())
    }
    for cell in cells:
        if cell.complete:
            groups.setdefault(_key(cell.record.method, cell.record.setting), []).append(cell)
    return tuple(system for group in groups.values() if group for system in _decoded(group, notes))


def _decoded(cells: Sequence[KeptCell], notes: list[str]) -> Iterator[System]:
    """A method with one setting under top-1, and under each further decoding that all seeds have."""
    yield _system(cells, TOP1)
    for decoding in dict.fromkeys(name for cell in cells for name in cell.further):
        if all(decoding in cell.further for cell in cells):
            yield _system(cells, decoding)
        else:
            notes.append(f"{cells[0].label}: decoding {decoding} is in no table, for not every seed has its replies.")


def _system(cells: Sequence[KeptCell], decoding: str) -> System:
    shown = [replace(cell, decoding=decoding) for cell in sorted(cells, key=lambda cell: cell.record.seed)]
    first = shown[0].record
    label = with_decoding(shown[0].label, decoding)
    return System(label, first.method, first.kind, first.setting, tuple(shown), decoding)


def _reference(systems: Sequence[System], settings: ComparisonSettings | None, notes: list[str]) -> System | None:
    """The system of the reference's method; the first one where it has a grid."""
    if settings is None or settings.reference is None:
        return None
    found = [system for system in systems if system.method == settings.reference and system.decoding == TOP1]
    if not found:
        notes.append(f"The reference {settings.reference} has no complete cell, so there are no gains and differences.")
        return None
    if len(found) > 1:
        notes.append(f"The reference {settings.reference} has {len(found)} settings; {found[0].label} is taken.")
    return found[0]


def _faults(cells: Sequence[KeptCell], settings: ComparisonSettings | None) -> Iterator[Fault]:
    """Cells that are not complete, in the order of the settings; then those that the settings do not name."""
    left = {(_key(cell.record.method, cell.record.setting), cell.record.seed): cell for cell in cells}
    for method, setting, seeds in _planned(settings) if settings else ():
        for seed in seeds:
            cell = left.pop((_key(method, setting), seed), None)
            if cell is None:
                yield Fault(label_of(method, setting), seed, "is not finished")
            elif not cell.complete or cell.record.status != DONE:
                yield Fault(cell.label, seed, _reason(cell))
    for cell in left.values():
        if not cell.complete:
            yield Fault(cell.label, cell.record.seed, _reason(cell))


def _reason(cell: KeptCell) -> str:
    if cell.record.status == DONE:
        return f"has no evaluation {TOP1} that can be read"
    lines = (cell.record.error or "").strip().splitlines()
    return f"failed: {lines[0]}" if lines else "failed"
