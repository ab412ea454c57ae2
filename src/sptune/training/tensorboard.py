"""TensorBoard files of a run, in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.integrations import TensorBoardCallback

from sptune.files import storage_errors


class TensorBoardFiles(TensorBoardCallback):
    """Writes what transformers logs to `folder`; opens it when training begins, not before.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open a new file; a resumed run takes back the points after its checkpoint."""
        with storage_errors(self.folder):
            self.tb_writer = self._SummaryWriter(str(self.folder), purge_step=state.global_step + 1)
            super().on_train_begin(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the figures."""
        with storage_errors(self.folder):
            super().on_log(args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the file."""
        with storage_errors(self.folder):
            super().on_train_end(args, state, control, **kwargs)
