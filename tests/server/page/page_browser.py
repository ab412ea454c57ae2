"""What the page's tests share: a server in a thread, sizes of windows, and the page opened in one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
PATIENCE = 20_000  # milliseconds; the machine may be busy

Opener = Callable[..., AbstractContextManager[Page]]


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address of `app`, which runs in a thread meanwhile."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def open_window(browser: Browser, address: str, *, expected: str | None = None, **options: Any) -> Iterator[Page]:
    """The page in a window of its own; whatever the browser complains of fails the test, unless it is `expected`."""
    complaints: list[str] = []
    context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.on("console", lambda entry: complaints.append(entry.text) if entry.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    unexpected = [text for text in complaints if expected is None or expected not in text]
    assert not unexpected, unexpected


def say(page: Page, text: str = "What do you do on Sundays?") -> None:
    """Writes and sends a message."""
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def replied(page: Page, number: int = 1) -> None:
    """Waits until exchange `number` has its reply."""
    expect(page.locator(f".exchange:nth-child({number}) .ratings")).to_be_visible()


def last_reply(page: Page) -> str:
    """What was said last."""
    return page.locator(".exchange:last-child .reply .text").inner_text()
