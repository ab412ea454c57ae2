"""`POST /v1/chat/completions`, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import pytest
from live_server import LiveServer, chat, events, live_server

from sptune.config.mistakes import short
from sptune.data.dialogue import Dialogue, Turn
from sptune.engine.local import LocalEngine
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.mixture import mixture_weights
from sptune.model.spt import SPTModel

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def sailor(adapters: dict[str, str], tiny_base: LoadedBase) -> LocalEngine:
    """The adapter without a server, to compare with."""
    return LocalEngine(SPTModel.from_pretrained(adapters["sailor"], base=tiny_base))


def post(live: LiveServer, body: dict[str, Any], path: str = PATH) -> Any:
    answer = live.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(live: LiveServer, body: dict[str, Any], *, status: int = 400) -> dict[str, Any]:
    answer = live.http.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def stream(live: LiveServer, body: dict[str, Any], path: str = PATH) -> list[Any]:
    answer = live.http.post(path, json=body | {"stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert found[-1] == "[DONE]"
    return found[:-1]


def text_of(chunks: list[Any], index: int = 0) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(delta.get("content", "") for delta in deltas)


def test_the_reply_is_the_adapters_own(live: LiveServer, sailor: LocalEngine):
    messages = [
        {"role": "system", "content": "I sail. I have two dogs."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "ahoy"},
        {"role": "user", "content": "do you sing ?"},
    ]
    answer = post(live, chat(messages=messages))
    talk = Dialogue("x", ("I sail.", "I have two dogs."), (Turn("hello", "ahoy"), Turn("do you sing ?")))
    [reply] = sailor.generate([talk], decoding=Decoding(max_new_tokens=6))
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": reply.text, "refusal": None}
    assert answer["spt"]["prompt"] == reply.selection.prompt
    assert answer["spt"]["scores"] == pytest.approx(reply.selection.scores, abs=1e-5)
    assert answer["spt"]["margin"] == pytest.approx(reply.selection.margin, abs=1e-5)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "sailor"
    usage = answer["usage"]
    assert usage["completion_tokens"] == len(reply.tokens)
    assert usage["prompt_tokens"] == 4 + len(sailor.model.encoder.encode_context(talk).input_ids)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_says_the_same_piece_by_piece(live: LiveServer):
    body = chat(max_tokens=20)
    whole = post(live, body)
    chunks = stream(live, body)
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[0]["spt"] == whole["spt"]
    assert not any("spt" in chunk for chunk in chunks[1:])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + [
        whole["choices"][0]["finish_reason"]
    ]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["usage"] is None for chunk in chunks)
    assert len(chunks) > 4, "piece by piece"


def test_the_usage_chunk_comes_last_and_only_when_it_is_asked_for(live: LiveServer):
    whole = post(live, chat())
    *chunks, last = stream(live, chat(stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)


def test_three_ways_to_say_who_replies(live: LiveServer):
    said = {"role": "user", "content": "do you sing ?"}
    system = post(live, chat(messages=[{"role": "system", "content": "I sail.\nI have two dogs."}, said]))
    listed = post(live, chat(persona=["I sail.", "I have two dogs."]))
    named = post(live, chat(persona="sailor"))
    parts = [{"type": "text", "text": "I sail. "}, {"type": "text", "text": "I have two dogs."}]
    developer = post(live, chat(messages=[{"role": "developer", "content": parts}, said]))
    assert system["spt"] == listed["spt"] == named["spt"] == developer["spt"]
    assert system["usage"] == listed["usage"] == named["usage"]
    other = post(live, chat(persona="baker"))
    assert other["spt"]["scores"] != named["spt"]["scores"]


def test_the_base_model_has_no_prompt(live: LiveServer):
    answer = post(live, chat(model="tiny"))
    assert answer["spt"] is None
    chunks = stream(live, chat(model="tiny"))
    assert text_of(chunks) == answer["choices"][0]["message"]["content"]
    assert not any("spt" in chunk for chunk in chunks)
    assert refused(live, chat(model="tiny", prompt=0))["param"] == "prompt"
    assert refused(live, chat(model="tiny", selection="sticky"))["param"] == "selection"


def test_each_adapter_has_its_own_prompts(live: LiveServer):
    assert [len(post(live, chat(model=name))["spt"]["scores"]) for name in ("sailor", "baker")] == [3, 5]


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_forced_prompt_speaks_whatever_the_scores(live: LiveServer, sailor: LocalEngine, k: int):
    free, forced = post(live, chat(prompt="auto")), post(live, chat(prompt=k))
    assert forced["spt"]["prompt"] == k
    assert forced["spt"]["scores"] == free["spt"]["scores"]
    talk = Dialogue("x", (), (Turn("do you sing ?"),))
    [reply] = sailor.generate([talk], decoding=Decoding(max_new_tokens=6), prompt=k)
    assert forced["choices"][0]["message"]["content"] == reply.text


@pytest.mark.parametrize("kind", ["fused", "gated"])
@pytest.mark.parametrize("streamed", [False, True])
def test_prompts_speak_together_where_a_request_asks_for_it(
    live: LiveServer, sailor: LocalEngine, kind: Literal["fused", "gated"], streamed: bool
):
    talk = Dialogue("x", (), (Turn("do you sing ?"),))
    [reply] = sailor.generate([talk], decoding=Decoding(max_new_tokens=6, kind=kind))
    body = chat(decoding=kind)
    if streamed:
        chunks = stream(live, body)
        text, spt = text_of(chunks), chunks[0]["spt"]
    else:
        answer = post(live, body)
        text, spt = answer["choices"][0]["message"]["content"], answer["spt"]
    assert text == reply.text
    assert spt["weights"] == pytest.approx(mixture_weights(reply.selection, kind=kind, temperature=0.1), abs=1e-4)
    assert spt["prompt"] == reply.selection.prompt
    forced = post(live, body | {"prompt": 1, "stream": False})
    assert forced["spt"]["weights"] is None
    assert forced["choices"] == post(live, chat(prompt=1))["choices"], "a forced prompt speaks alone"


def test_the_server_says_who_speaks_where_a_request_does_not(
    make_engine: Callable, make_settings: Callable, sailor: LocalEngine
):
    with live_server(make_engine(), make_settings(decoding="gated", gate_temperature=0.5)) as server:
        answer, alone = post(server, chat()), post(server, chat(decoding="top1"))
    talk = Dialogue("x", (), (Turn("do you sing ?"),))
    [reply] = sailor.generate([talk], decoding=Decoding(max_new_tokens=6, kind="gated", gate_temperature=0.5))
    assert answer["choices"][0]["message"]["content"] == reply.text
    assert answer["spt"]["weights"] == pytest.approx(
        mixture_weights(reply.selection, kind="gated", temperature=0.5), abs=1e-4
    )
    assert alone["spt"]["weights"] is None


def test_the_base_model_has_no_prompts_that_speak_together(live: LiveServer):
    error = refused(live, chat(model="tiny", decoding="fused"))
    assert error["param"] == "decoding"
    assert post(live, chat(model="tiny", decoding="top1"))["spt"] is None


def test_a_prompt_that_is_not_there(live: LiveServer):
    error = refused(live, chat(prompt=3))
    assert (error["code"], error["param"]) == ("prompt_not_found", "prompt")
    assert "prompts 0 to 2" in error["message"]


def test_sticky_keeps_the_prompt_of_the_turn_before_without_any_memory(live: LiveServer):
    messages: list[dict[str, str]] = []
    sticky, free = [], []
    for text in ("do you sing ?", "zzzz qqqq", "aye .", "私は海が好きです 。"):
        messages.append({"role": "user", "content": text})
        asked = chat(model="baker", messages=messages)
        free.append(post(live, asked)["spt"]["prompt"])
        sticky.append(post(live, asked | {"selection": "sticky", "sticky_margin": 1e6})["spt"]["prompt"])
        assert post(live, asked | {"selection": "sticky", "sticky_margin": 0})["spt"]["prompt"] == free[-1]
        messages.append({"role": "assistant", "content": "aye ."})
    assert len(set(free)) > 1
    assert sticky == [free[0]] * 4


def test_an_earlier_message_that_does_not_fit_has_no_say_in_what_sticks(live: LiveServer):
    turns = [("user", "sing " * 3000), ("assistant", "aye ."), ("user", "do you sing ?")]
    asked = chat(messages=[{"role": role, "content": text} for role, text in turns])
    free = post(live, asked)["spt"]
    assert post(live, asked | {"selection": "sticky", "sticky_margin": 1e6})["spt"] == free


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/spt/select"])
def test_sticky_asks_for_a_model_that_is_there(live: LiveServer, path: str):
    turns = [("user", "hi"), ("assistant", "aye ."), ("user", "do you sing ?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    answer = live.http.post(path, json={"model": "nobody", "messages": messages, "selection": "sticky"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_n_replies_are_drawn_each_from_its_own_seed(live: LiveServer):
    drawn = chat(temperature=1.5, max_tokens=12, seed=7)
    both = post(live, drawn | {"n": 2})["choices"]
    texts = [choice["message"]["content"] for choice in both]
    assert [choice["index"] for choice in both] == [0, 1]
    assert texts == [post(live, drawn | {"seed": seed})["choices"][0]["message"]["content"] for seed in (7, 8)]
    assert texts[0] != texts[1]
    chunks = stream(live, drawn | {"n": 2, "stream_options": {"include_usage": True}})
    assert [text_of(chunks, 0), text_of(chunks, 1)] == texts
    assert sum("spt" in chunk for chunk in chunks) == 2, "in the first chunk of each reply"
    single, double = post(live, drawn)["usage"], chunks[-1]["usage"]
    assert double["prompt_tokens"] == single["prompt_tokens"]


def test_a_seed_repeats_and_no_seed_does_not(live: LiveServer):
    def said(**fields: Any) -> str:
        return post(live, chat(temperature=2, max_tokens=16, **fields))["choices"][0]["message"]["content"]

    assert said(seed=1) == said(seed=1) != said(seed=2)
    assert len({said() for _ in range(3)}) > 1
    assert said(seed=-1) == said(seed=-1)


def test_a_stop_ends_the_reply_and_is_no_part_of_it(live: LiveServer):
    whole = post(live, chat(max_tokens=30))["choices"][0]["message"]["content"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    for given in (stop, [stop, "never said"]):
        cut = post(live, chat(max_tokens=30, stop=given))
        assert cut["choices"][0]["message"]["content"] == whole[: whole.index(stop)].rstrip()
        assert cut["choices"][0]["finish_reason"] == "stop"
        assert text_of(stream(live, chat(max_tokens=30, stop=given))) == whole[: whole.index(stop)].rstrip()


def test_max_tokens_has_two_names(live: LiveServer):
    short = post(live, chat(max_tokens=None, max_completion_tokens=2))
    assert short["usage"]["completion_tokens"] <= 2
    assert short["choices"] == post(live, chat(max_tokens=2))["choices"]
    assert refused(live, chat(max_tokens=3, max_completion_tokens=2))["param"] == "max_tokens"


def test_log_probabilities(live: LiveServer):
    answer = post(live, chat(logprobs=True, top_logprobs=2))
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert len(tokens) == answer["usage"]["completion_tokens"]
    for token in tokens:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"]), "greedy takes the best"
        assert token["bytes"] is None or bytes(token["bytes"]).decode() == token["token"]
    streamed = stream(live, chat(logprobs=True, top_logprobs=2))
    chunks = [c["choices"][0]["logprobs"] for c in streamed if c["choices"][0]["logprobs"]]
    assert [t["token"] for c in chunks for t in c["content"]] == [t["token"] for t in tokens]
    assert post(live, chat())["choices"][0]["logprobs"] is None
    assert post(live, chat(logprobs=True))["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert refused(live, chat(top_logprobs=2))["param"] == "top_logprobs"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"50": 3}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("reasoning_effort", "high"),
    ],
)
def test_what_is_not_supported_is_refused_in_words(live: LiveServer, field: str, value: Any):
    error = refused(live, chat(**{field: value}))
    assert error["message"] == f"{field}: not supported by this server; leave it out (got {short(value)})"
    assert (error["param"], error["code"]) == (field, "invalid_value")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 4),
        ("prompt_embeds", "AAAA"),
        ("inputs_embeds", [[0.1]]),
        ("messages", [{"role": "tool", "content": "x", "tool_call_id": "1"}]),
        ("messages", [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ],
)
def test_what_is_not_understood_is_refused(live: LiveServer, field: str, value: Any):
    error = refused(live, chat(**{field: value}))
    assert field in error["message"]
    assert error["param"].partition(".")[0] == field


def test_parts_that_are_no_text_are_named(live: LiveServer):
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "input_audio"},
    ]
    error = refused(live, chat(messages=[{"role": "user", "content": parts}]))
    assert error["message"] == (
        "messages.0.content: only text is understood; leave out parts of type 'image_url', 'input_audio'"
    )
    assert error["param"] == "messages.0.content"


def test_a_part_of_a_type_that_is_no_text_at_all(live: LiveServer):
    body = json.dumps(chat(messages=[{"role": "user", "content": [{"type": "\ud800" * 200}]}]))
    answer = live.http.post(PATH, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert "only text is understood" in error["message"]
    assert len(error["message"]) < 200


def test_what_changes_nothing_is_taken(live: LiveServer):
    neutral = {"tools": [], "tool_choice": "none", "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
    neutral |= {"response_format": {"type": "text"}, "n": 1, "audio": None, "stop": None, "modalities": ["text"]}
    answer = live.http.post(PATH, json=chat(**neutral))
    assert answer.status_code == 200, answer.text
    assert "x-sptune-warning" not in answer.headers


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_ignored_is_named_in_a_header(live: LiveServer, streamed: bool):
    ignored = {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "sticky_margin": 0.1}
    answer = live.http.post(PATH, json=chat(stream=streamed, parallel_tool_calls=False, **ignored))
    assert answer.status_code == 200, answer.text
    for name in (*ignored, "parallel_tool_calls"):
        assert name in answer.headers["x-sptune-warning"]


def test_a_model_that_is_not_there(live: LiveServer):
    error = refused(live, chat(model="nobody"), status=404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "nobody" in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_conversation_that_does_not_fit_the_window(live: LiveServer):
    error = refused(live, chat("sing " * 3000))
    assert error["code"] == "context_length_exceeded"
    error = refused(live, chat(max_tokens=1024))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_tokens")
    assert refused(live, chat(max_tokens=1024, stream=True))["code"] == "context_length_exceeded"


def test_all_faults_of_a_body_are_told_together(live: LiveServer):
    error = refused(live, {"model": 3, "messages": [], "temperature": 9, "mesages": 1})
    for field in ("model", "messages", "temperature", "mesages"):
        assert field in error["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'"x"', b"\xff\xfe", b"[" * 50_000, b'{"a":' * 20_000])
def test_a_body_that_is_no_json_object(live: LiveServer, content: bytes):
    answer = live.http.post(PATH, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_a_form_that_another_site_could_send_is_refused(live: LiveServer):
    """A browser sends text/plain across sites without asking first; application/json it does not."""
    answer = live.http.post(
        PATH, content=b'{"model": "sailor", "messages": []}', headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


def test_routes_and_methods_that_are_not_there(live: LiveServer):
    assert live.http.get("/v1/nothing").json()["error"]["code"] == "not_found"
    wrong = live.http.get(PATH)
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    assert wrong.headers["allow"] == "POST"
