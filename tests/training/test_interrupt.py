"""Ctrl-C: the first one waits for the step, the second does not, and Python's own handler is put back."""

from __future__ import annotations

import logging
import os
import signal
import threading

import pytest

from sptune.training.interrupt import Interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_press_waits_for_the_next_step_and_saves_before_it(caplog: pytest.LogCaptureFixture):
    saved: list[str] = []
    with Interrupt(lambda: saved.append("whole")) as interrupt, caplog.at_level(logging.WARNING):
        interrupt.on_step_begin(None, None, None)
        press()
        assert interrupt.requested
        assert saved == []
        with pytest.raises(KeyboardInterrupt):
            interrupt.on_step_begin(None, None, None)
    assert saved == ["whole"]
    assert "stopping after this step; press Ctrl-C again" in caplog.text


def test_the_second_press_stops_at_once_and_saves_nothing():
    saved: list[str] = []
    with Interrupt(lambda: saved.append("half")):
        press()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert saved == []


def test_pythons_handler_is_put_back():
    with Interrupt(lambda: None):
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(RuntimeError), Interrupt(lambda: None):
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_can_be_used_again():
    interrupt = Interrupt(lambda: None)
    with interrupt:
        press()
    with interrupt:
        assert not interrupt.requested
        interrupt.on_step_begin(None, None, None)


def test_a_handler_of_ones_own_is_left_alone():
    def own(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGINT, own)
    try:
        with Interrupt(lambda: None):
            assert signal.getsignal(signal.SIGINT) is own
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_train_without_it():
    """Only the main thread may set handlers; Python would raise."""
    seen: list[object] = []

    def train() -> None:
        with Interrupt(lambda: None) as interrupt:
            interrupt.on_step_begin(None, None, None)
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
