"""`run.json`: when, where and with what a run was trained. Kept beside the run, and shown in its report."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sptune.errors import DataError
from sptune.files import write_json

RUN_INFO_NAME = "run.json"
_PACKAGES = ("sptune", "torch", "transformers", "accelerate", "safetensors", "numpy", "sacrebleu", "rouge-score")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """How a run came about.

    Attributes:
        command: the command line.
        started: begin of the training, UTC, ISO 8601.
        seconds: of training, all resumed parts together.
        machine: system, architecture and number of cores; no name of a computer or a person.
        versions: package -> version.
    """

    command: str
    started: str
    seconds: float
    machine: str
    versions: dict[str, str]


def describe_run(command: str, *, started: datetime, seconds: float) -> RunInfo:
    """This process's machine and versions.

    Args:
        command: the command line.
        started: begin of the training, with a time zone.
        seconds: of training.
    """
    moment = started.astimezone(UTC).isoformat(timespec="seconds")
    return RunInfo(command, moment, round(seconds, 1), _machine(), _versions())


def save_run_info(folder: Path, info: RunInfo) -> None:
    """Write `run.json` into the run folder.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(folder / RUN_INFO_NAME, asdict(info))


def load_run_info(folder: Path) -> RunInfo:
    """Read `run.json` of the run folder.

    Raises:
        DataError: missing or damaged.
    """
    path = folder / RUN_INFO_NAME
    try:
        return TypeAdapter(RunInfo).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise DataError(f"{path}: cannot be read; time, machine and versions of the run are not known") from error


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{platform.system()} {platform.machine()}, {cores} CPU core{'s' * (cores > 1)}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
