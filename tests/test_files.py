"""Atomic writing: the old file or the new one, never half of either."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sptune import files
from sptune.errors import StorageError
from sptune.files import storage_errors, write_atomically, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_folder(path: Path, content: str) -> None:
    path.mkdir()
    (path / "inner").mkdir()
    (path / "inner" / "a.txt").write_text(content)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_text_and_json_arrive_as_given(tmp_path: Path):
    write_text(tmp_path / "new" / "folder" / "a.txt", "möwe\n")
    write_json(tmp_path / "a.json", {"möwe": [1, 2.5, None]})
    assert (tmp_path / "new/folder/a.txt").read_bytes() == "möwe\n".encode()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"möwe": [1, 2.5, None]}
    assert names(tmp_path) == ["a.json", "new"]


def test_a_file_or_folder_of_that_name_is_replaced_whole(tmp_path: Path):
    file, folder = tmp_path / "a.txt", tmp_path / "folder"
    for content in ("old", "new"):
        write_text(file, content)
        write_atomically(folder, lambda partial, content=content: make_folder(partial, content))
        (folder / f"{content}-only").touch()
    assert file.read_text() == "new"
    assert (folder / "inner/a.txt").read_text() == "new"
    assert names(folder) == ["inner", "new-only"]
    assert names(tmp_path) == ["a.txt", "folder"]


def test_a_folder_is_replaced_without_the_swap_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    test_a_file_or_folder_of_that_name_is_replaced_whole(tmp_path)


def test_json_has_no_nan(tmp_path: Path):
    write_json(tmp_path / "a.json", 1)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(tmp_path / "a.json", [value])
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_the_old_one_stays_when_the_writer_fails(tmp_path: Path):
    write_text(tmp_path / "a.txt", "old")
    write_atomically(tmp_path / "folder", lambda partial: make_folder(partial, "old"))

    def fail(partial: Path) -> None:
        make_folder(partial, "half")
        raise RuntimeError("the writer's own")

    for name in ("a.txt", "folder"):
        with pytest.raises(RuntimeError, match="the writer's own"):
            write_atomically(tmp_path / name, fail)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "folder/inner/a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt", "folder"]


@pytest.mark.parametrize("broken", ["os.fsync", "os.replace", "pathlib.Path.write_text"])
def test_a_full_disk_is_a_storage_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str):
    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(broken, full_disk)
    with pytest.raises(StorageError, match=r"a\.txt: cannot be written \(No space left on device\); free space"):
        write_text(tmp_path / "a.txt", "new")
    monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_while_a_folder_is_replaced_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, replace = tmp_path / "folder", os.replace
    write_atomically(folder, lambda partial: make_folder(partial, "old"))

    def fail_on_the_new(source: Path, target: Path) -> None:
        if source.name.endswith(".partial"):
            full_disk()
        replace(source, target)

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "replace", fail_on_the_new)
    with pytest.raises(StorageError, match="No space left"):
        write_atomically(folder, lambda partial: make_folder(partial, "new"))
    assert (folder / "inner/a.txt").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_a_real_write_error_of_safetensors_is_a_storage_error(tmp_path: Path):
    def write(partial: Path) -> None:
        save_file({"a": torch.zeros(3)}, partial / "no such folder" / "a.safetensors")

    with pytest.raises(StorageError, match=r"weights: cannot be written \(.*[Nn]o such file"):
        write_atomically(tmp_path / "weights", write)


@pytest.mark.parametrize("broken", ["a file where a folder should be", "a folder where a file should be"])
def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path, broken: str):
    (tmp_path / "file").write_text("old")
    make_folder(tmp_path / "folder", "old")
    target = tmp_path / "file" / "a.txt" if broken.startswith("a file") else tmp_path / "folder"
    with pytest.raises(StorageError, match=f"{target}: cannot be written"):
        write_text(target, "new")
    assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "folder/inner/a.txt").read_text() == "old"
    assert names(tmp_path) == ["file", "folder"]


def test_only_the_systems_errors_are_translated(tmp_path: Path):
    with pytest.raises(ValueError, match="mine"), storage_errors(tmp_path):
        raise ValueError("mine")
