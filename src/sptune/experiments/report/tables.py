"""All figures of a comparison as plain tables, for people who make their own plots: CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sptune.config.compare import TOP1
from sptune.experiments.report.columns import SPECS
from sptune.experiments.report.controls import Controls
from sptune.experiments.report.findings import Findings, Found
from sptune.experiments.report.folder import Comparison
from sptune.experiments.report.trials import group_trials
from sptune.files import write_json, write_text
from sptune.report.metric_specs import value_of

TABLES_NAME = "tables"
COSTS = (
    "trainable_parameters",
    "train_tokens",
    "train_seconds",
    "evaluate_seconds",
    "train_peak_memory_bytes",
    "peak_memory_bytes",
)

Record: TypeAlias = dict[str, Any]


def make_tables(comparison: Comparison, findings: Findings, controls: Sequence[Controls]) -> dict[str, list[Record]]:
    """Name of a table -> its rows. What is not known is None; a table may be empty."""
    return {
        "systems": list(_systems(comparison)),
        "cells": list(_cells(comparison)),
        "human": list(_human(comparison)),
        "differences": list(_findings(findings.differences, "difference")),
        "gains": list(_findings(findings.gains, "gain_percent")),
        "controls": [_controls(one) for one in controls],
        "tuning": list(_tuning(comparison)),
        "curves": list(_curves(comparison)),
        "missing": [{"label": one.label, "seed": one.seed, "reason": one.reason} for one in comparison.faults],
    }


def write_tables(folder: Path, tables: Mapping[str, Sequence[Record]]) -> tuple[Path, ...]:
    """Write `NAME.csv` and `NAME.json` of each table.

    Raises:
        StorageError: they cannot be written.
    """
    written = []
    for name, records in tables.items():
        write_text(folder / f"{name}.csv", to_csv(records))
        write_json(folder / f"{name}.json", records)
        written += [folder / f"{name}.csv", folder / f"{name}.json"]
    return tuple(written)


def to_csv(records: Sequence[Record]) -> str:
    """Records as CSV, with a heading; None is empty, what is neither text nor number is JSON.

    >>> print(to_csv([{"a": 1.5, "b": None}, {"a": 2, "c": {"k": 4}}]), end="")
    a,b,c
    1.5,,
    2,,"{""k"": 4}"
    """
    columns = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in record.items()} for record in records)
    return text.getvalue()


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value


def _systems(comparison: Comparison) -> Iterator[Record]:
    for system in comparison.systems:
        record: Record = {"label": system.label, "method": system.method, "kind": system.kind}
        record |= {"setting": system.setting, "decoding": system.decoding}
        record |= {"prompts": system.prompts, "seeds": len(system.cells)}
        figures = {key: system.value(spec) for key, spec in SPECS.items()}
        costs = {name: system.cost(name) if system.decoding == TOP1 else None for name in COSTS}
        for name, value in (figures | costs).items():
            record |= {name: value.mean if value else None, f"{name}_spread": value.spread if value else None}
        yield record


def _cells(comparison: Comparison) -> Iterator[Record]:
    """Every decoding of every cell."""
    for cell in comparison.cells:
        known = cell.record
        head: Record = {"label": cell.label, "method": known.method, "setting": known.setting, "seed": known.seed}
        head |= {"learning_rate": known.learning_rate} | {name: getattr(known, name) for name in COSTS}
        for decoding, one in cell.evaluations.items():
            yield {
                **head,
                "decoding": decoding,
                **{key: value_of(one.result, spec) for key, spec in SPECS.items()},
            }


def _human(comparison: Comparison) -> Iterator[Record]:
    found = (result.metrics.human for system in comparison.systems for result in system.results if result.metrics)
    figures = next(found, None)
    if figures:
        yield dict(figures)


def _findings(found: Found, name: str) -> Iterator[Record]:
    for label, by_metric in found.items():
        for metric, one in by_metric.items():
            chance = one.chance
            record: Record = {"label": label, "metric": metric, name: chance.difference}
            yield record | {
                "low": chance.low,
                "high": chance.high,
                "p_value": chance.p_value,
                "p_holm": one.p_adjusted,
            }


def _controls(one: Controls) -> Record:
    record: Record = {"label": one.system.label, "prompts": one.system.prompts}
    for name, value in one.perplexity.items():
        record |= {name: value.mean if value else None, f"{name}_spread": value.spread if value else None}
    shares = {"agreement": one.agreement, "always_same": one.always_same, "evenness": one.evenness}
    record |= {name: value.mean if value else None for name, value in shares.items()}
    record |= {"usage": list(one.usage)}
    for name, found in one.against.items():
        interval = {"low": found.low, "high": found.high, "p_value": found.p_value}
        record |= {f"minus_{name}": found.difference} | {
            f"minus_{name}_{key}": value for key, value in interval.items()
        }
    return record


def _tuning(comparison: Comparison) -> Iterator[Record]:
    for tuned in group_trials(comparison.trials):
        for trial in tuned.trials:
            yield {**trial.model_dump(), "chosen": trial is tuned.best}


def _curves(comparison: Comparison) -> Iterator[Record]:
    for cell in comparison.cells:
        head: Record = {"label": cell.label, "seed": cell.record.seed}
        for step, tokens, perplexity in zip(cell.curve.steps, cell.curve.tokens, cell.curve.perplexity, strict=True):
            yield {**head, "step": step, "tokens": tokens, "perplexity": perplexity}
