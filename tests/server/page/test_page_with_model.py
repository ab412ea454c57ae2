"""The page before the real server, with a (tiny, random) model, a key, personas and records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from live_server import live_server
from page_browser import last_reply, open_window, replied, say
from playwright.sync_api import Browser, expect

from sptune.data.lines import clean
from sptune.data.load import read
from sptune.engine.serving import ServingEngine
from sptune.server.records.store import Records
from sptune.server.settings import ServerSettings

pytestmark = pytest.mark.browser

KEY = "a-key-of-the-tests-0123456789"


@pytest.mark.parametrize("selection", ["per_turn", "sticky"])
def test_a_talk_with_the_real_server(
    browser: Browser,
    make_engine: Callable[..., ServingEngine],
    make_settings: Callable[..., ServerSettings],
    tmp_path: Path,
    selection: str,
) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n", encoding="utf-8")
    (tmp_path / "personas.yaml").write_text("sailor: [I sail., I have two dogs.]\n", encoding="utf-8")
    settings = make_settings(
        api_key_file=tmp_path / "keys",
        personas=tmp_path / "personas.yaml",
        record=tmp_path / "chats.db",
        retention_days=30,
    )
    records = Records.open(tmp_path / "chats.db", retention_days=30)
    with (
        live_server(make_engine(), settings, records=records) as server,
        open_window(browser, server.url, expected="401") as page,
    ):
        page.get_by_role("textbox", name="Key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#welcome")).to_contain_text("I have two dogs.")
        expect(page.locator("#records")).to_have_text("This server keeps talks and ratings for 30 days.")
        page.get_by_label("Model").select_option("sailor")
        page.get_by_label("Which prompt speaks").select_option(selection)
        for number, text in enumerate(("hello", "and then ?"), start=1):
            with page.expect_request("**/v1/chat/completions") as request:
                say(page, text)
            replied(page, number)
            body = request.value.post_data_json
            assert body is not None
            plain = page.request.post(
                f"{server.url}/v1/chat/completions",
                data=body | {"stream": False},
                headers={"Authorization": f"Bearer {KEY}"},
            ).json()
            assert last_reply(page) == plain["choices"][0]["message"]["content"].strip()
            scores = page.locator(f".exchange:nth-child({number}) .bar .score").all_inner_texts()
            assert scores == [f"{score:.3f}" for score in plain["spt"]["scores"]]
            spoke = page.locator(f".exchange:nth-child({number}) .bar[aria-current] .number").inner_text()
            assert spoke == str(plain["spt"]["prompt"])
        page.locator(".exchange:last-child .bar:not([aria-current])").first.click()
        page.get_by_role("button", name="Use this reply").click()
        adopted = last_reply(page)
        page.locator(".exchange:last-child").get_by_role("button", name="Good reply").click()
        expect(page.locator(".exchange:last-child .told")).to_have_text("Thank you.")
        with page.expect_download() as download:
            page.get_by_role("button", name="Export").click()
        download.value.save_as(tmp_path / "talks.jsonl")
    records.close()
    exported = json.loads((tmp_path / "talks.jsonl").read_text(encoding="utf-8"))
    assert exported["messages"][-1]["rating"] == 1
    [talk] = read(str(tmp_path / "talks.jsonl")).dialogues
    assert talk.persona == ("I sail.", "I have two dogs.")
    assert [turn.user for turn in talk.turns] == ["hello", "and then ?"]
    assert talk.turns[-1].response == clean(adopted).strip()
