"""`POST /v1/completions`: texts continued as they stand."""

from __future__ import annotations

from typing import Any

import pytest
from live_server import LiveServer, events

PATH = "/v1/completions"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "sailor", "prompt": "given persona: i sail", "temperature": 0, "max_tokens": 8} | fields


def post(live: LiveServer, **fields: Any) -> Any:
    answer = live.http.post(PATH, json=body(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_text_is_continued(live: LiveServer):
    answer = post(live)
    [choice] = answer["choices"]
    assert answer["object"] == "text_completion"
    assert choice["finish_reason"] in {"stop", "length"}
    assert len(answer["spt"]["scores"]) == 3
    assert answer["usage"]["completion_tokens"] <= 8
    assert choice["logprobs"] is None


def test_several_texts_each_with_its_own_prompt(live: LiveServer):
    texts = ["given persona: i sail", "number 3 shows the coast"]
    answer = post(live, prompt=texts, n=2, temperature=1, seed=3)
    alone = [post(live, prompt=text, n=2, temperature=1, seed=3) for text in texts]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in answer["choices"]] == [c["text"] for one in alone for c in one["choices"]]
    assert [choice["spt"] for choice in answer["choices"][::2]] == [one["spt"] for one in alone]
    assert answer["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)


def test_half_a_surrogate_pair_is_dropped(live: LiveServer):
    raw = rb'{"model": "sailor", "prompt": "\ud800", "max_tokens": 4}'
    answer = live.http.post(PATH, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "text: empty" in answer.json()["error"]["message"]
    assert post(live, prompt="i sail")["choices"] == post(live, prompt="i \x1bsail")["choices"]


def test_a_stream_says_the_same(live: LiveServer):
    whole = post(live, logprobs=1)
    answer = live.http.post(PATH, json=body(stream=True, logprobs=1, stream_options={"include_usage": True}))
    *chunks, last, done = events(answer.text)
    assert done == "[DONE]"
    assert last["usage"] == whole["usage"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert chunks[0]["spt"] == whole["spt"]
    assert not any("spt" in chunk for chunk in chunks[1:])
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    for name, values in whole["choices"][0]["logprobs"].items():
        assert [value for part in parts for value in part[name]] == values


def test_log_probabilities(live: LiveServer):
    answer = post(live, logprobs=2)
    logprobs = answer["choices"][0]["logprobs"]
    assert {len(values) for values in logprobs.values()} == {answer["usage"]["completion_tokens"]}
    assert all(top[token] == pytest.approx(own) for token, own, top in zip(*list(logprobs.values())[:3], strict=True))
    assert logprobs["text_offset"] == [len("".join(logprobs["tokens"][:k])) for k in range(len(logprobs["tokens"]))]


def test_the_base_model_and_a_forced_prompt(live: LiveServer):
    assert post(live, model="tiny")["spt"] is None
    assert post(live, spt_prompt=2)["spt"]["prompt"] == 2
    assert post(live, spt_prompt="auto")["spt"] == post(live)["spt"]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": []},
        {"prompt": ["a", ""]},
        {"prompt": [1, 2, 3]},
        {"prompt": [[1, 2]]},
        {"prompt": None},
        {"prompt_embeds": "AAAA"},
        {"echo": True},
        {"suffix": "end"},
        {"best_of": 3},
        {"spt_prompt": -1},
        {"spt_prompt": 9},
        {"spt_prompt": True},
        {"logprobs": 21},
        {"model": "tiny", "spt_prompt": 0},
        {"persona": ["I sail."]},
        {"prompt": ["a"] * 9},
        {"prompt": "a" * 16_001},
    ],
)
def test_what_is_refused(live: LiveServer, fields: dict[str, Any]):
    answer = live.http.post(PATH, json=body(**fields))
    assert answer.status_code == 400, answer.text
    assert list(fields)[-1] in answer.json()["error"]["message"] or "n:" in answer.json()["error"]["message"]
