"""Labels, roles, contrast and motion, judged by axe in a real browser."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_browser import DESKTOP, PHONE, Opener, replied, say
from page_stand_in import StandIn
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

MOVING = """[...document.querySelectorAll("*")].map(getComputedStyle).filter(
    ({ animationName, transitionDuration }) => animationName !== "none" || transitionDuration !== "0s"
).length"""


def violations(page: Page) -> list[str]:
    """What axe objects to, WCAG 2.2 AA and best practices, with the elements concerned."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize(
    ("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop-light", "phone-dark"]
)
def test_no_state_of_the_page_breaks_a_rule(
    stand_in: StandIn, open_page: Opener, viewport: dict[str, int], scheme: str
) -> None:
    # axe is a script that the page's policy rightly keeps out.
    with open_page(expected="429", color_scheme=scheme, viewport=viewport, bypass_csp=True) as page:
        expect(page.locator("#welcome")).to_be_visible()
        assert violations(page) == []
        page.locator(".opener").first.click()
        page.locator(".bar").nth(1).click()
        expect(page.get_by_role("button", name="Use this reply")).to_be_visible()
        page.get_by_role("button", name="Good reply").click()
        assert violations(page) == []
        if viewport is PHONE:
            page.get_by_role("button", name="Set up").click()
            page.get_by_text("How it replies").click()
            assert violations(page) == []
            page.get_by_role("button", name="Done").click()
        stand_in.failures = [(429, 30, "the queue is full")]
        say(page)
        expect(page.locator(".exchange:last-child .what")).to_be_visible()
        assert violations(page) == []


def test_the_question_for_the_key_breaks_no_rule(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.key = "open-sesame"
    with open_page(expected="401", bypass_csp=True) as page:
        expect(page.get_by_role("dialog")).to_be_visible()
        assert violations(page) == []
        page.keyboard.press("Escape")
        expect(page.locator("#connection")).to_be_visible()
        assert violations(page) == []


def test_every_prompt_has_a_readable_colour(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.models[1]["spt"]["num_prompts"] = 8
    stand_in.scores = tuple(0.1 + k / 10 for k in range(8))
    stand_in.replies = ("Yes.",) * 8
    with open_page(bypass_csp=True, color_scheme="light") as page:
        for k in range(8):
            page.get_by_label("Which prompt speaks").select_option(str(k))
            say(page)
            replied(page, k + 1)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert violations(page) == []


def test_nothing_moves_for_those_who_asked_for_it(open_page: Opener) -> None:
    with open_page() as page:
        page.locator(".opener").first.click()
        replied(page)
        assert page.evaluate(MOVING) == 0
    with open_page(reduced_motion="no-preference") as page:
        page.locator(".opener").first.click()
        replied(page)
        assert page.evaluate(MOVING) > 0
