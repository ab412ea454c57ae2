"""What a person can do on the chat page, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from page_browser import DESKTOP, PHONE, Opener, last_reply, replied, say
from page_stand_in import PERSONAS, REPLIES, StandIn, model
from playwright.sync_api import Page, expect

from sptune.data.load import read

pytestmark = pytest.mark.browser


def test_a_reply_streams_and_shows_which_prompt_spoke_and_why(stand_in: StandIn, open_page: Opener) -> None:
    with open_page() as page:
        expect(page.locator("#welcome")).to_contain_text("afraid of heights")
        say(page, "Hello <b>there</b>")
        replied(page)
        assert last_reply(page) == REPLIES[3]
        assert page.locator(".user .text").inner_text() == "Hello <b>there</b>"
        expect(page.locator(".reason")).to_have_text("Prompt 3 spoke: it scores best, 0.063 ahead of prompt 0.")
        expect(page.locator(".bar .score")).to_have_text(["0.050", "0.031", "0.000", "0.113"])
        expect(page.locator(".bar[aria-current]")).to_have_accessible_name("Prompt 3, score 0.113: it spoke")
        heights = [bar.bounding_box()["height"] for bar in page.locator(".bar .fill").all()]  # type: ignore[index]
        assert heights[3] == max(heights)
        assert heights[0] / heights[3] == pytest.approx(0.0496 / 0.113, abs=0.03)
        expect(page.get_by_role("status").last).to_contain_text(f"Prompt 3 says: {REPLIES[3]}")
    [asked] = stand_in.asked
    assert asked["model"] == "quickstart"
    assert asked["persona"] == PERSONAS["beekeeper"]
    assert asked["messages"] == [{"role": "user", "content": "Hello <b>there</b>"}]
    assert (asked["prompt"], asked["selection"], asked["stream"]) == ("auto", "per_turn", True)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ((0.25,) * 4, "All 4 prompts spoke together, each as much as the others."),
        (
            (0.2, 0.18, 0.12, 0.5),
            "All 4 prompts spoke together, weighed by their scores: prompt 3 counts most, 50%.",
        ),
    ],
)
def test_prompts_that_spoke_together_can_each_be_read(
    stand_in: StandIn, open_page: Opener, weights: tuple[float, ...], reason: str
) -> None:
    stand_in.weights = weights
    with open_page() as page:
        say(page)
        replied(page)
        expect(page.locator(".reply .speaker")).to_have_text("All prompts together")
        expect(page.locator(".reason")).to_have_text(reason)
        expect(page.locator(".bar[aria-current]")).to_have_count(0)
        page.get_by_role("button", name="Prompt 3, score").click()
        expect(page.locator(".other .speaker")).to_have_text("Prompt 3 would have said")
        page.get_by_role("button", name="Use this reply").click()
        expect(page.locator(".reply .speaker")).to_have_text("Prompt 3")
        expect(page.locator(".reason")).to_contain_text("Prompt 3 speaks because you chose its reply.")
        page.get_by_role("button", name="All prompts together").click()
        expect(page.locator(".other .speaker")).to_have_text("All prompts together would have said")
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_role("button", name="All prompts together")).to_be_focused()
        page.get_by_role("button", name="All prompts together").click()
        page.get_by_role("button", name="Use this reply").click()
        expect(page.locator(".reply .speaker")).to_have_text("All prompts together")
        expect(page.locator(".reason")).to_have_text(reason)
        expect(page.get_by_role("button", name="All prompts together")).to_be_hidden()
    assert [asked["prompt"] for asked in stand_in.asked] == ["auto", 3]


def test_model_output_is_never_markup(stand_in: StandIn, open_page: Opener) -> None:
    evil = "<img src=x onerror=document.title='owned'> <script>document.title='owned'</script>"
    stand_in.replies = (evil,) * 4
    stand_in.personas = {"<i>mallory</i>": ["<u>I am markup.</u>"]}
    with open_page() as page:
        expect(page.locator("#welcome")).to_contain_text("<i>mallory</i>")
        say(page)
        replied(page)
        assert last_reply(page) == evil
        assert page.locator("#talk img, #talk script, #welcome u, #welcome i").count() == 0
        assert page.title() == "sptune chat"


def test_another_prompt_can_be_read_without_changing_the_talk_and_adopted(stand_in: StandIn, open_page: Opener) -> None:
    with open_page() as page:
        say(page)
        replied(page)
        page.get_by_role("button", name="Prompt 1, score").click()
        other = page.locator(".other")
        expect(other.locator(".speaker")).to_have_text("Prompt 1 would have said")
        expect(other.locator(".text")).to_have_text(REPLIES[1])
        expect(page.get_by_role("button", name="Prompt 1, score")).to_have_attribute("aria-expanded", "true")
        assert last_reply(page) == REPLIES[3]
        page.get_by_role("button", name="Close").click()
        expect(other).to_be_hidden()
        expect(page.get_by_role("button", name="Prompt 1, score")).to_be_focused()

        page.get_by_role("button", name="Prompt 1, score").click()
        expect(other.locator(".text")).to_have_text(REPLIES[1])
        page.get_by_role("button", name="Use this reply").click()
        assert last_reply(page) == REPLIES[1]
        expect(page.locator(".reason")).to_contain_text("Prompt 1 speaks because you chose its reply.")
        say(page, "Really?")
        replied(page, 2)
    said, other_said, after = stand_in.asked  # what was heard once is not asked for again
    assert other_said["prompt"] == 1
    assert other_said["messages"] == said["messages"]
    assert [message["content"] for message in after["messages"]] == [
        "What do you do on Sundays?",
        REPLIES[1],
        "Really?",
    ]


def test_a_reply_that_is_adopted_while_another_is_said_stands(stand_in: StandIn, open_page: Opener) -> None:
    with open_page() as page:
        stand_in.pause = 0.2
        say(page)
        page.get_by_role("button", name="Prompt 1, score").click()
        other = page.locator(".other")
        expect(other.locator(".text")).to_have_text(REPLIES[1], timeout=20_000)
        page.get_by_role("button", name="Use this reply").click()
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        assert last_reply(page) == REPLIES[1]
        stand_in.pause = 0.0
        say(page, "Really?")
        replied(page, 2)
    assert [message["content"] for message in stand_in.asked[-1]["messages"]] == [
        "What do you do on Sundays?",
        REPLIES[1],
        "Really?",
    ]


def test_adopting_an_earlier_reply_begins_another_talk_and_loses_none(open_page: Opener, tmp_path: Path) -> None:
    with open_page() as page:
        for number, text in enumerate(["One?", "Two?"], start=1):
            say(page, text)
            replied(page, number)
        page.locator(".exchange:first-child .bar").nth(2).click()
        page.get_by_role("button", name="Go on from here with this").click()
        expect(page.locator(".exchange")).to_have_count(1)
        assert last_reply(page) == REPLIES[2]
        said = [[turn.response for turn in talk.turns] for talk in exported(page, tmp_path)]
    assert said == [[REPLIES[3], REPLIES[3]], [REPLIES[2]]]


def exported(page: Page, folder: Path) -> tuple[object, ...]:
    """What `sptune train` reads from the file that the page hands out."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename.endswith(".jsonl")
    path = folder / "talks.jsonl"
    download.value.save_as(path)
    result = read(str(path))
    assert result.problems == ()
    return result.dialogues


def test_the_export_is_training_data(stand_in: StandIn, open_page: Opener, tmp_path: Path) -> None:
    stand_in.replies = (*REPLIES[:3], "Bell\x07 and half a pair \ud83d, then 🐝.")
    with open_page() as page:
        say(page, "One?")
        replied(page)
        page.get_by_role("button", name="Good reply").click()
        expect(page.locator(".told")).to_have_text("Thank you.")
        page.get_by_label("Persona", exact=True).select_option("baker")
        expect(page.locator("#persona-note")).to_contain_text("begins a new talk")
        say(page, "Two?")
        replied(page)
        talks = exported(page, tmp_path)
    first, second = talks
    assert [turn.response for turn in first.turns] == ["Bell and half a pair , then 🐝."]
    assert [list(talk.persona) for talk in talks] == [PERSONAS["beekeeper"], PERSONAS["baker"]]
    assert second.turns[0].user == "Two?"
    record = json.loads((tmp_path / "talks.jsonl").read_text().splitlines()[0])
    assert record["messages"][1] | {"content": ""} == {
        "role": "assistant", "content": "", "prompt": 3, "rating": 1, "model": "quickstart",
    }  # fmt: skip


def test_ratings_reach_the_server_and_it_may_decline(stand_in: StandIn, open_page: Opener) -> None:
    with open_page(expected="404") as page:
        say(page)
        replied(page)
        page.get_by_role("button", name="Bad reply").click()
        expect(page.get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".told")).to_have_text("Thank you.")
        stand_in.records = False
        page.get_by_role("button", name="Good reply").click()
        expect(page.locator(".told")).to_have_text("Kept in this tab only. This server keeps no records.")
        expect(page.get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "false")
    assert stand_in.ratings == [{"completion_id": "chatcmpl-1", "rating": -1}]


@pytest.mark.parametrize(
    ("records", "days", "told"),
    [
        (False, None, "This server keeps no talks."),
        (True, None, "This server keeps talks and ratings without a time limit."),
        (True, 1.0, "This server keeps talks and ratings for 1 day."),
        (True, 0.5, "This server keeps talks and ratings for 0.5 days."),
    ],
)
@pytest.mark.parametrize("window", [DESKTOP, PHONE])
def test_it_says_below_the_message_whether_the_server_keeps_talks(
    stand_in: StandIn, open_page: Opener, records: bool, days: float | None, told: str, window: dict[str, int]
) -> None:
    stand_in.records, stand_in.retention_days = records, days
    with open_page(viewport=window) as page:
        expect(page.locator("#records")).to_have_text(told)
        expect(page.locator("#records")).to_be_in_viewport()
        assert "stay in this browser" not in page.content()


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_keeps_what_was_said_and_frees_the_server(stand_in: StandIn, open_page: Opener, how: str) -> None:
    stand_in.pause = 0.1
    with open_page() as page:
        say(page)
        expect(page.locator(".reply .text")).to_contain_text("On")
        if how == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
        expect(page.locator(".reply .note")).to_have_text("You stopped it here.")
        text = last_reply(page)
        assert REPLIES[3].startswith(text)
        assert text != REPLIES[3]
        expect(page.get_by_label("Your message")).to_be_focused()
        stand_in.pause = 0
        say(page, "Go on.")
        replied(page, 2)
    assert stand_in.asked[1]["messages"][1] == {"role": "assistant", "content": text}
    assert stand_in.cut == 1


def test_another_reply_is_sampled_from_the_same_prompt(stand_in: StandIn, open_page: Opener) -> None:
    with open_page() as page:
        say(page)
        replied(page)
        stand_in.replies = (*REPLIES[:3], "Something else.")
        page.get_by_role("button", name="Another reply").click()
        expect(page.locator(".reply .text")).to_have_text("Something else.")
        expect(page.locator(".reason")).to_contain_text("it scores best")
        stand_in.replies = (*REPLIES[:3], "")
        page.get_by_role("button", name="Another reply").click()
        replied(page)
        assert last_reply(page) == "Something else."
    first, second, _ = stand_in.asked
    assert first["temperature"] == 0
    assert (second["prompt"], second["temperature"], second["top_p"]) == (3, 0.8, 0.95)
    assert second["messages"] == first["messages"]


def test_a_new_talk_can_begin_while_a_reply_comes(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.pause = 0.1
    with open_page() as page:
        say(page, "One?")
        expect(page.locator(".reply .text")).to_contain_text("On")
        page.get_by_role("button", name="New talk").click()
        page.locator(".opener").first.click()
        replied(page)
        expect(page.locator(".exchange")).to_have_count(1)
        assert last_reply(page) == REPLIES[3]
        expect(page.get_by_role("button", name="Export 2 talks")).to_be_visible()
    assert [len(asked["messages"]) for asked in stand_in.asked] == [1, 1]


def test_persona_prompt_and_model_can_be_chosen(stand_in: StandIn, open_page: Opener) -> None:
    with open_page() as page:
        expect(page.locator("#model-facts")).to_have_text("4 soft prompts of 8 tokens, on smollm2-135m.")
        page.get_by_label("What is true of who replies").fill("I sail.\n\n  I bake.  ")
        expect(page.get_by_label("Persona", exact=True)).to_have_value("")
        page.get_by_label("Which prompt speaks").select_option("2")
        say(page)
        replied(page)
        expect(page.locator(".reason")).to_have_text("Prompt 2 spoke because you asked for it. Prompt 3 scores best.")
        page.get_by_label("Which prompt speaks").select_option("sticky")
        page.get_by_label("Model").select_option("base")
        expect(page.get_by_label("Which prompt speaks")).to_be_hidden()
        say(page, "And you?")
        replied(page, 2)
        expect(page.locator(".exchange:last-child .speaker").first).to_have_text("base")
        expect(page.locator(".exchange:last-child .scores")).to_be_hidden()
    forced, bare = stand_in.asked
    assert forced["persona"] == ["I sail.", "I bake."]
    assert forced["prompt"] == 2
    assert not {"prompt", "selection"} & bare.keys()


def test_keyboard_alone(open_page: Opener) -> None:
    with open_page() as page:
        expect(page.locator("#welcome")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to your message")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        page.keyboard.press("Enter")
        replied(page)
        assert page.locator(".user .text").inner_text() == "one\ntwo"
        assert [bar.get_attribute("tabindex") for bar in page.locator(".bar").all()] == ["-1", "-1", "-1", "0"]
        page.locator(".bar").nth(3).focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator(".bar").nth(0)).to_be_focused()
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
        expect(page.locator(".other .text")).to_have_text(REPLIES[2])


def test_on_a_phone_the_setup_is_a_sheet(open_page: Opener) -> None:
    with open_page(viewport=PHONE, is_mobile=True, has_touch=True) as page:
        setup = page.get_by_role("complementary")
        expect(setup).to_be_hidden()
        page.get_by_role("button", name="Set up").tap()
        setup.get_by_label("Persona", exact=True).select_option("baker")
        setup.get_by_role("button", name="Done").tap()
        expect(setup).to_be_hidden()
        expect(page.locator("#welcome-name")).to_have_text("baker")
        say(page)
        replied(page)
        page.locator(".bar").nth(1).tap()
        reply, other = (page.locator(f".{name}").bounding_box() for name in ("reply", "other"))
        assert reply is not None
        assert other is not None
        assert other["y"] > reply["y"] + reply["height"]  # below, where there is no room beside
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_many_prompts_and_one(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.models = [model("many", 16), model("one", 1)]
    stand_in.scores = tuple(k / 16 for k in range(16))
    stand_in.replies = ("Yes.",) * 16
    with open_page() as page:
        say(page)
        replied(page)
        tops = {bar.bounding_box()["y"] for bar in page.locator(".bar").all()}  # type: ignore[index]
        assert len(tops) == 1  # one row
        page.get_by_label("Model").select_option("one")
        say(page, "Alone?")
        replied(page, 2)
        expect(page.locator(".exchange:last-child .reason")).to_contain_text("nothing to choose")


def test_the_page_follows_the_talk_unless_its_reader_went_back(stand_in: StandIn, open_page: Opener) -> None:
    stand_in.replies = ("word " * 300,) * 4
    left = "log => Math.round(log.scrollHeight - log.scrollTop - log.clientHeight)"
    with open_page() as page:
        say(page)
        replied(page)
        expect(page.locator(".reason")).to_be_in_viewport()
        assert page.locator("#log").evaluate(left) <= 1
        say(page, "More!")
        replied(page, 2)
        assert page.locator("#log").evaluate(left) <= 1
        stand_in.pause = 0.02
        say(page, "And more!")
        expect(page.locator(".exchange:nth-child(3) .reply .text")).to_contain_text("word")
        page.locator("#log").evaluate("log => log.scrollTo(0, 100)")
        page.wait_for_timeout(300)
        assert page.locator("#log").evaluate("log => log.scrollTop") == 100
