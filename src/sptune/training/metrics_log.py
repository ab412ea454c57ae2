"""`metrics.jsonl`: one JSON object a line, appended while training; a resumed run takes back what came after its checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sptune.files import storage_errors, write_text


class MetricsLog:
    """Appends records to `metrics.jsonl`.

    Args:
        path: the file; made on the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add one line. `record` has `step` and `kind` (`train` or `validation`); numbers that are not finite become null."""
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the records after `step`, and a last line that was cut short."""
        if self.path.exists():
            kept = [record for record in read_metrics(self.path) if record["step"] <= step]
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a line that was cut short, or is no record, is left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
