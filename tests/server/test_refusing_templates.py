"""Templates that cannot render a conversation: the request is at fault, and is told why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from live_server import LiveServer, chat, live_server

from sptune.model.load import LoadedBase
from tiny import CHAT_TEMPLATE, tiny_spt

PATH = "/v1/chat/completions"
PICKY = "{% if 'storm' in messages[-1].content %}{{ raise_exception('no storms here') }}{% endif %}"


@pytest.fixture(scope="module")
def strict(
    tiny_base: LoadedBase, make_engine: Callable, make_settings: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A base model whose template does not take every message, and the adapter `first` whose template needs one."""
    base = LoadedBase(tiny_base.backbone, deepcopy(tiny_base.tokenizer))
    base.tokenizer.chat_template = PICKY + CHAT_TEMPLATE
    folder: Path = tmp_path_factory.mktemp("strict") / "first"
    source = "{{ persona[0] }} {% for turn in turns %}{{ turn.user }} {% endfor %}-"
    tiny_spt(base, "jinja", source=source).save_pretrained(folder)
    with live_server(make_engine(base), make_settings(adapters={"first": str(folder)})) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "model", "said", "reason"),
    [
        (PATH, "tiny", "a storm comes", "no storms here"),
        (PATH, "first", "hi", "has no element 0"),
        ("/v1/spt/select", "first", "hi", "has no element 0"),
    ],
)
def test_a_conversation_that_the_template_refuses(strict: LiveServer, path: str, model: str, said: str, reason: str):
    body = {"model": model, "messages": [{"role": "user", "content": said}], "persona": []}
    answer = strict.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (
        "conversation_refused",
        "messages",
        "invalid_request_error",
    )
    assert reason in error["message"]
    assert "template." not in error["message"], "that is advice for whoever trains"


@pytest.mark.parametrize(("model", "persona"), [("tiny", []), ("first", ["I sail."])])
def test_one_that_it_takes(strict: LiveServer, model: str, persona: list[str]):
    assert strict.http.post(PATH, json=chat(model=model, persona=persona)).status_code == 200
