"""A real browser (Debian's Chromium), before a server that stands in for the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest
from page_browser import Opener, open_window, serving
from page_stand_in import StandIn
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def address(stand_in: StandIn) -> Iterator[str]:
    with serving(stand_in.app()) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser a module: the event loop that it needs must not outlive its tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, address: str) -> Opener:
    """Opens the page of the stand-in, see `open_window`."""
    return partial(open_window, browser, address)
