"""`metrics.jsonl`: whole lines of JSON, and nothing from after the checkpoint once a run is resumed."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import pytest

from sptune.errors import StorageError
from sptune.training.metrics_log import MetricsLog, read_metrics


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    return MetricsLog(tmp_path / "run" / "metrics.jsonl")


def test_records_are_appended_one_a_line(log: MetricsLog):
    records = [{"kind": "train", "step": step, "total": 1 / 3, "usage": [0.5, 0.5]} for step in (1, 2)]
    for record in records:
        log.append(record)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == records == read_metrics(log.path)


def test_numbers_that_are_not_finite_become_null(log: MetricsLog):
    log.append({"step": 1, "a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf, "e": "x", "f": True, "g": 3}})
    assert read_metrics(log.path) == [
        {"step": 1, "a": None, "b": [None, 1.0], "c": {"d": None, "e": "x", "f": True, "g": 3}}
    ]


def test_rewind_drops_what_came_after(log: MetricsLog):
    for step in (2, 4, 4, 6):
        log.append({"kind": "train", "step": step})
    log.rewind(4)
    assert [record["step"] for record in read_metrics(log.path)] == [2, 4, 4]
    log.append({"kind": "train", "step": 6})
    assert [record["step"] for record in read_metrics(log.path)] == [2, 4, 4, 6]
    log.rewind(-1)
    assert read_metrics(log.path) == []


def test_rewind_without_a_file_makes_none(log: MetricsLog):
    log.rewind(3)
    assert not log.path.exists()


def test_rewind_keeps_every_digit(log: MetricsLog):
    log.append({"step": 1, "total": 0.1 + 0.2})
    before = log.path.read_bytes()
    log.rewind(1)
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("cut", range(2, 40, 3))
def test_a_line_that_was_cut_short_goes(log: MetricsLog, cut: int):
    """As a killed writer leaves it: the next record must not be glued to the stump."""
    log.append({"kind": "train", "step": 1, "total": 2.0})
    log.append({"kind": "train", "step": 2, "total": 1.0})
    with log.path.open("rb+") as file:
        file.truncate(log.path.stat().st_size - cut)
    log.rewind(2)
    log.append({"kind": "train", "step": 3, "total": 0.5})
    assert [record["step"] for record in read_metrics(log.path)] == [1, 3]
    assert all(json.loads(line) for line in log.path.read_text().splitlines())


def test_lines_that_are_no_record_are_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n5\n[1]\n{"no": "step"}\n\xff\xfe\nnull\n{"step": 2}\n')
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


def test_a_full_disk_is_named(log: MetricsLog, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match=r"metrics\.jsonl: cannot be written \(No space left on device\)"):
        log.append({"step": 1})
