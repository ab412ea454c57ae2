"""Ctrl-C while training: the step in progress is finished first, so that the state that is kept is a whole one."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import TrainerCallback

_log = logging.getLogger(__name__)


class Interrupt(TrainerCallback):
    """Takes the first Ctrl-C as a request to stop before the next step, and leaves the second one to Python.

    Use it as a context manager around training. Outside the main thread, or where Ctrl-C has a handler of its own, it changes nothing.

    Args:
        save: called before training stops.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self.requested = False
        self._save = save

    def __enter__(self) -> Interrupt:
        self.requested = False
        self._previous = signal.getsignal(signal.SIGINT)
        self._installed = (
            threading.current_thread() is threading.main_thread() and self._previous is signal.default_int_handler
        )
        if self._installed:
            signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop here if asked to.

        Raises:
            KeyboardInterrupt: it was asked for; the state is saved.
        """
        if self.requested:
            self._save()
            raise KeyboardInterrupt

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        _log.warning("stopping after this step; press Ctrl-C again to stop at once, at the newest checkpoint")

    def _restore(self) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)
            self._installed = False
