"""Adapters on the Hugging Face hub: fetch one, upload one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from sptune.adapter import CONFIG_NAME, WEIGHTS_NAME
from sptune.errors import AdapterError


def local_folder(adapter: str | Path) -> Path:
    """The folder of an adapter: itself, the `adapter` folder of a run, or a hub id's download (of its two files alone).

    Raises:
        AdapterError: looks like a hub id, but the hub does not give it.
    """
    path = Path(os.path.expanduser(adapter))
    name = str(adapter)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        inner = path / "adapter"
        return inner if not (path / CONFIG_NAME).exists() and (inner / CONFIG_NAME).exists() else path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise AdapterError(f"{name}: no such folder, and the hub does not give it ({reason})") from error


def upload(save: Callable[[Path], None], repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the folder that `save` writes to a hub repository, which is created when it does not exist.

    Args:
        save: writes the adapter to the folder it is given.
        repo_id: `owner/name`.
        private: for a new repository.
        token: access token; the one of `hf auth login` where None.

    Returns:
        The commit's address.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "adapter"
        save(folder)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder).commit_url)
