"""What the page does when something goes wrong, in a real browser: nothing is lost, and it says what to do."""

from __future__ import annotations

import pytest
from page_browser import Opener, last_reply, replied, say
from page_stand_in import REPLIES, StandIn
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_a_key_is_asked_for_kept_for_the_session_and_forgotten(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.key = "open-sesame"
    with open_page(expected="401") as page:
        key = page.get_by_role("textbox", name="Key")
        expect(key).to_be_focused()
        assert key.get_attribute("type") == "password"
        key.fill("wrong")
        key.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("did not accept")
        key.fill(stand_in.key)
        key.press("Enter")
        expect(page.get_by_role("dialog")).to_be_hidden()
        say(page)
        replied(page)
        assert page.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []
        page.reload()
        replied(page)  # neither key nor talk is lost with a reload
        page.get_by_role("button", name="Forget the key").click()
        say(page, "Still there?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".exchange:last-child .what")).to_contain_text("have a key")
        page.locator(".exchange:last-child").get_by_role("button", name="Try again").click()
        key.fill(stand_in.key)
        key.press("Enter")
        replied(page, 2)


def test_a_full_queue_says_how_long_to_wait(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.failures = [(429, 2, "the queue is full")]
    with open_page(expected="429") as page:
        say(page)
        expect(page.get_by_role("alert").locator("visible=true")).to_have_text("The queue is full.")
        again = page.locator(".exchange .again")
        expect(again).to_be_disabled()
        expect(again).to_have_text("Try again in 2 s")
        expect(again).to_be_enabled()
        again.click()
        replied(page)
        assert last_reply(page) == REPLIES[3]


def test_a_refused_message_can_be_edited(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.failures = [(400, 0, "messages: longer than the model's window")]
    with open_page(expected="400") as page:
        say(page, "far too long")
        expect(page.locator(".exchange .what")).to_have_text("messages: longer than the model's window.")
        page.get_by_role("button", name="Edit message").click()
        expect(page.get_by_label("Your message")).to_have_value("far too long")
        expect(page.locator(".exchange")).to_have_count(0)
        say(page, "short")
        replied(page)
    assert [message["content"] for message in stand_in.asked[1]["messages"]] == ["short"]


def test_a_reply_that_breaks_off_is_kept_and_can_be_had_again(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.break_after = 3
    with open_page(expected="ERR_INCOMPLETE_CHUNKED_ENCODING") as page:
        say(page)
        expect(page.locator(".exchange .what")).to_contain_text("broke off")
        assert last_reply(page) == "On Sundays I"
        stand_in.break_after = None
        page.locator(".exchange .again").click()
        expect(page.locator(".reply .text")).to_have_text(REPLIES[3])
        expect(page.locator(".exchange .problem")).to_be_hidden()
        stand_in.break_after = 3
        page.get_by_role("button", name="Another reply").click()
        expect(page.locator(".exchange .what")).to_contain_text("broke off")
        assert last_reply(page) == REPLIES[3]  # half a reply does not take the place of a whole one


def test_a_server_that_is_gone(open_page: Opener) -> None:
    with open_page(expected="Failed to load resource") as page:
        expect(page.locator("#welcome")).to_be_visible()
        page.context.set_offline(True)
        say(page)
        expect(page.locator(".exchange .what")).to_contain_text("does not answer")
        say(page, "Hello?")
        expect(page.locator(".exchange:first-child .what")).to_contain_text("left out of the talk")
        page.context.set_offline(False)
        page.locator(".exchange:last-child .again").click()
        replied(page, 2)


def test_a_message_sent_before_the_server_has_told_what_it_offers_waits_for_it(
    stand_in: StandIn, open_page: Opener
) -> None:
    stand_in.delay = 1.0
    with open_page() as page:
        say(page)
        expect(page.get_by_label("Your message")).to_have_value("What do you do on Sundays?")
        page.get_by_label("Your message").press("Enter")  # out of patience: it is still said once
        replied(page)
        expect(page.get_by_label("Your message")).to_have_value("")
        expect(page.locator(".exchange")).to_have_count(1)
    assert len(stand_in.asked) == 1


def test_a_reload_loses_nothing(stand_in: StandIn, open_page: Opener) -> None:
    with open_page() as page:
        page.get_by_label("Which prompt speaks").select_option("1")
        say(page, "One?")
        replied(page)
        stand_in.pause = 5
        say(page, "Two?")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Which prompt speaks")).to_have_value("1")
        expect(page.locator(".exchange:first-child .reply .text")).to_have_text(REPLIES[1])
        expect(page.locator(".exchange:last-child .what")).to_have_text("This message has no reply yet.")
        stand_in.pause = 0
        page.locator(".exchange:last-child .again").click()
        replied(page, 2)
    assert stand_in.asked[2]["messages"] == stand_in.asked[1]["messages"]
