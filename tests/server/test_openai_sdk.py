"""The official `openai` package works with this server as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from live_server import LiveServer, live_server
from openai.types.chat import ChatCompletion

SAID: Any = [{"role": "system", "content": "I sail."}, {"role": "user", "content": "do you sing ?"}]
GREEDY: dict[str, Any] = {"model": "sailor", "messages": SAID, "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def server(
    make_engine: Callable, make_settings: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    keys: Path = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text("sk-right\n", encoding="utf-8")
    with live_server(make_engine(slots=1, queue_limit=0), make_settings(api_key_file=keys)) as server:
        yield server


@pytest.fixture(scope="module")
def sdk(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-right", max_retries=0) as client:
        yield client


def test_models(sdk: openai.OpenAI):
    assert [model.id for model in sdk.models.list()] == ["tiny", "sailor", "baker"]
    assert sdk.models.retrieve("baker").owned_by == "sptune"


def test_a_chat(sdk: openai.OpenAI):
    answer = sdk.chat.completions.create(**GREEDY)
    assert isinstance(answer, ChatCompletion)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert set(answer.spt) == {"prompt", "scores", "margin", "weights"}  # type: ignore[attr-defined]
    assert answer._request_id


def test_own_fields_go_in_the_extra_body(sdk: openai.OpenAI):
    body = {"persona": ["I bake."], "prompt": 2, "selection": "per_turn"}
    messages: Any = SAID[1:]
    answer = sdk.chat.completions.create(**GREEDY | {"messages": messages}, extra_body=body)
    assert answer.spt["prompt"] == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", [lambda message: message, lambda message: message.model_dump()])
def test_a_conversation_goes_on_with_the_message_that_came(sdk: openai.OpenAI, form: Callable[[Any], Any]):
    first = sdk.chat.completions.create(**GREEDY).choices[0].message
    assert first.content
    messages: Any = [*SAID, form(first), {"role": "user", "content": "is that hard work ?"}]
    assert sdk.chat.completions.create(**GREEDY | {"messages": messages}).choices


def test_a_stream(sdk: openai.OpenAI):
    whole = sdk.chat.completions.create(**GREEDY)
    chunks = list(sdk.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[0].spt == whole.spt  # type: ignore[attr-defined]


def test_the_streaming_helper_puts_the_chunks_together(sdk: openai.OpenAI):
    said = sdk.chat.completions.create(**GREEDY).choices[0].message.content or ""
    fields = GREEDY | {
        "logprobs": True,
        "stop": said[len(said) // 2 :],
    }  # the helper takes a reply cut short for a failure
    with sdk.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    whole = sdk.chat.completions.create(**fields)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert final.usage == whole.usage
    assert final.choices[0].logprobs == whole.choices[0].logprobs


def test_a_stream_that_is_closed_frees_its_slot(server: LiveServer, sdk: openai.OpenAI):
    """There is but one slot and no queue: a second request is answered only when the first has gone."""
    stream = sdk.chat.completions.create(model="tiny", messages=SAID, max_tokens=900, stream=True)
    with closing(stream):
        next(iter(stream))
        with pytest.raises(openai.RateLimitError):
            sdk.chat.completions.create(**GREEDY)
    assert sdk.with_options(max_retries=8).chat.completions.create(**GREEDY).choices


def test_a_client_that_meets_a_full_queue_tries_again(server: LiveServer, sdk: openai.OpenAI):
    async def both() -> ChatCompletion:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-right", max_retries=8) as client:
            busy = await client.chat.completions.create(model="tiny", messages=SAID, max_tokens=900, stream=True)
            waiting = asyncio.create_task(client.chat.completions.create(**GREEDY))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await busy.close()
            return await waiting

    assert asyncio.run(both()).choices


def test_completions(sdk: openai.OpenAI):
    fields: dict[str, Any] = {"model": "sailor", "prompt": "the first loaves", "temperature": 0, "max_tokens": 5}
    whole = sdk.completions.create(**fields, logprobs=1)
    assert whole.object == "text_completion"
    assert (
        "".join(part.choices[0].text for part in sdk.completions.create(**fields, stream=True)) == whole.choices[0].text
    )


def test_the_async_client(server: LiveServer, sdk: openai.OpenAI):
    async def ask() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-right") as client:
            whole = await client.chat.completions.create(**GREEDY)
            stream = await client.chat.completions.create(**GREEDY, stream=True)
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(parts)

    whole, streamed = asyncio.run(ask())
    assert whole == streamed == sdk.chat.completions.create(**GREEDY).choices[0].message.content


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "sing " * 3000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "invalid_value"),
    ],
)
def test_errors_have_their_classes(
    sdk: openai.OpenAI, change: dict[str, Any], error: type[openai.APIStatusError], code: str
):
    with pytest.raises(error) as caught:
        sdk.chat.completions.create(**GREEDY | change)
    assert caught.value.code == code
    assert caught.value.param == next(iter(change))
    assert caught.value.request_id


def test_a_wrong_key(server: LiveServer):
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_a_stream_that_breaks_is_an_error(server: LiveServer, sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sptune.server.replies.Replies._wait", _too_late(server))
    with pytest.raises(openai.APIError) as caught:
        list(sdk.chat.completions.create(**GREEDY, stream=True))
    assert caught.value.code == "total_timeout"


def _too_late(server: LiveServer) -> Callable[[Any], Any]:
    """`Replies._wait` in which the second wait is one too long."""
    from sptune.server.replies import Replies

    wait = Replies._wait

    async def late(self: Replies) -> None:
        if any(self._last):
            raise self._late()
        await wait(self)

    return late
