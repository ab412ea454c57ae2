"""Claims: one owner at a time, and none after its death, however it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from sptune.errors import StorageError
from sptune.experiments import claim
from sptune.experiments.claim import LOCK_NAME, claimed, owner

HOLD = """
import sys
from pathlib import Path
from sptune.experiments.claim import claimed
with claimed(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "PATIENCE", 0.1)


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds `folder` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "True\n"
    return process


def test_a_claim_is_for_one_process_and_names_it(tmp_path: Path, hasty: None):
    folder = tmp_path / "new" / "cell"
    assert owner(folder) is None
    holder = hold(folder)
    assert owner(folder) == (folder / LOCK_NAME).read_text().strip()
    assert f"process {holder.pid} on " in str(owner(folder))
    with claimed(folder) as held:
        assert not held
    holder.communicate("")
    assert owner(folder) is None
    with claimed(folder) as held:
        assert held
        assert f"process {os.getpid()} on " in (folder / LOCK_NAME).read_text()


def test_the_claim_of_a_killed_process_is_taken_over(tmp_path: Path, hasty: None):
    holder = hold(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / LOCK_NAME).exists()
    assert owner(tmp_path) is None
    with claimed(tmp_path) as held:
        assert held


def test_an_error_gives_the_claim_back(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path):
        raise ZeroDivisionError
    assert owner(tmp_path) is None


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"), claimed(tmp_path / "file" / "cell"):
        pass


def test_whether_another_user_s_folder_is_held_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lock").touch()

    def refuse(self: FileLock) -> None:
        raise PermissionError("lock")

    monkeypatch.setattr(FileLock, "__enter__", refuse)
    assert owner(tmp_path) is None
