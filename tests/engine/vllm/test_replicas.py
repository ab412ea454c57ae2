"""The gateway against replicas that speak vLLM's protocol and really generate."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from engine.serving_clients import (
    GREEDY,
    Answer,
    answers,
    assert_same_selection,
    collect,
    saved,
    serve,
    serve_with,
    varied,
)
from engine.vllm.replica_server import ReplicaServer, running
from model.architectures import make_architecture
from sptune.data.dialogue import Dialogue
from sptune.engine.serving import Load, OverloadedError, ServingEngine, ServingRequest, UnavailableError
from sptune.engine.vllm.engine import VllmEngine
from sptune.engine.vllm.replicas import Replicas, parse_urls
from sptune.errors import ModelError, UsageError
from sptune.model.backbone import Backbone
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.mixture import Speakers
from sptune.model.spt import SPTModel

Start = Callable[..., ReplicaServer]
Result = TypeVar("Result")
LONG = Decoding(max_new_tokens=300)


@pytest.fixture
def visit(embeddings: LoadedBase, folders: dict[str, Path], seconds: dict[str, Any]) -> Callable[..., Any]:
    """What a visit to a gateway in front of some replicas returns."""

    def run(
        visit: Callable[[VllmEngine], Awaitable[Result]],
        *replicas: ReplicaServer,
        slots: int = 16,
        queue_limit: int = 64,
        **options: Any,
    ) -> Result:
        urls = [replica.url for replica in replicas]
        source = Replicas(urls, embeddings, slots=slots, **{**seconds, **options})
        return serve_with(VllmEngine(embeddings, source, queue_limit=queue_limit), visit, adapters=folders)

    return run


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def asked(contexts: Sequence[Dialogue], decoding: Decoding = GREEDY, **options: Any) -> ServingRequest:
    return ServingRequest("one", contexts[0], decoding, **options)


def test_it_is_a_serving_engine(embeddings: LoadedBase, base_folder: Path) -> None:
    typed: ServingEngine = VllmEngine(embeddings, Replicas(["http://127.0.0.1:9"], embeddings, slots=3))
    assert typed.base == str(base_folder)
    assert typed.load() == Load(0, 0, 0, 0)


def test_greedy_replies_are_those_of_the_local_engine(
    tiny_base: LoadedBase, folders: dict[str, Path], contexts: list[Dialogue], replica: Start, visit: Callable
) -> None:
    """Any adapter and prompt, the bare model, texts, stops, log-probabilities; more requests than slots."""
    requests = [
        ServingRequest(
            name, context, decoding, prompt=(None, 1)[n % 3 == 0] if name else None, logprobs=(None, 2)[n % 2]
        )
        for n, (context, name) in enumerate((context, name) for context in contexts for name in ("one", "two", None))
        for decoding in [(GREEDY, Decoding(max_new_tokens=40), Decoding(max_new_tokens=1))[n % 3]]
    ]
    requests += [ServingRequest("two", None, GREEDY, text=" once upon", prompt=2), asked(contexts, stop=("a", "xq"))]

    async def ask(engine: ServingEngine) -> list[Answer]:
        return await answers(engine, requests)

    wanted = serve(tiny_base, ask, adapters=folders)
    found = visit(ask, replica(), replica(), slots=5)
    for one, other in zip(found, wanted, strict=True):
        assert (one.text, one.tokens, one.finish) == (other.text, other.tokens, other.finish)
        assert_same_selection(one.selection, other.selection)
        ours, theirs = ([t for piece in a.pieces for t in piece.logprobs] for a in (one, other))
        assert [t.token for t in ours] == [t.token for t in theirs]
        assert [t.logprob for t in ours] == pytest.approx([t.logprob for t in theirs], abs=1e-4)
        assert [[top.token for top in t.top] for t in ours] == [[top.token for top in t.top] for t in theirs]
    assert {answer.finish for answer in found} == {"stop", "length"}


def test_two_users_never_mix(
    tiny_base: LoadedBase, folders: dict[str, Path], replica: Start, visit: Callable, contexts: list[Dialogue]
) -> None:
    """24 users at once, each with a persona of its own, on two adapters: each is told what it is told alone."""
    requests = [
        ServingRequest(("one", "two")[user % 2], replace(contexts[user % 4], persona=(f"I am canary{user}.",)), GREEDY)
        for user in range(24)
    ]

    async def ask(engine: ServingEngine) -> list[Answer]:
        return await answers(engine, requests)

    async def ask_alone(engine: ServingEngine) -> list[Answer]:
        return [await collect(engine.submit(request)) for request in requests]

    wanted = serve(tiny_base, ask_alone, adapters=folders)
    found = visit(ask, replica(), replica(), slots=24)
    assert [answer.text for answer in found] == [answer.text for answer in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert_same_selection(one.selection, other.selection)
    assert len({answer.text for answer in wanted}) > 12, "the replies would differ if they were mixed"


def test_sampling_is_as_asked_for(replica: Start, visit: Callable, contexts: list[Dialogue]) -> None:
    """The model's own generation settings must not come in, so every setting is sent."""
    server = replica()

    def drawn(seed: int | None) -> ServingRequest:
        return asked(contexts, Decoding(max_new_tokens=8, temperature=1.3, top_p=0.9, seed=seed))

    async def ask(engine: ServingEngine) -> list[Answer]:
        return await answers(engine, [drawn(seed) for seed in (1, 1, 2, None, 2**63)])

    same, again, other, *_ = (answer.text for answer in visit(ask, server))
    assert same == again != other
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["ignore_eos"]) == (1.3, 0.9, 8, True)
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (0, 0.0, 1.0)
    assert "prompt" not in body
    assert {body["seed"] for body in server.bodies} == {1, 2, None, 0}, "vLLM takes 63 bits"


def test_a_closed_reply_is_aborted_within_one_token(replica: Start, visit: Callable, contexts: list[Dialogue]) -> None:
    server = replica(pause=0.02)

    async def ask(engine: VllmEngine) -> float:
        async with aclosing(engine.submit(asked(contexts, LONG))) as stream:
            await anext(stream)
            assert engine.load() == Load(1, 0, 16, 64)
        begin = time.monotonic()
        assert engine.load().running == 0
        await until(lambda: server.aborted == 1)
        assert [piece async for piece in stream] == []
        return time.monotonic() - begin

    assert visit(ask, server) < 0.5
    assert server.open == 0


def test_a_stop_text_aborts_what_vllm_goes_on_with(
    tiny_base: LoadedBase, folders: dict[str, Path], replica: Start, visit: Callable, contexts: list[Dialogue]
) -> None:
    server = replica(pause=0.005)
    request = asked(contexts, LONG)

    async def ask(engine: ServingEngine) -> Answer:
        return await collect(engine.submit(request))

    async def ask_with_stop(engine: ServingEngine) -> Answer:
        answer = await collect(engine.submit(replace(request, stop=(whole[8:11],))))
        await until(lambda: server.open == 0)
        return answer

    whole = serve(tiny_base, ask, adapters=folders).text
    answer = visit(ask_with_stop, server)
    assert (answer.text, answer.finish) == (whole[: whole.index(whole[8:11])].strip(), "stop")
    assert server.aborted == 1


def test_the_least_busy_replica_is_first_and_equals_take_turns(
    replica: Start, visit: Callable, contexts: list[Dialogue]
) -> None:
    servers = [replica(), replica(), replica()]

    async def ask(engine: VllmEngine) -> None:
        for _ in range(6):
            await collect(engine.submit(asked(contexts)))
        assert [len(server.bodies) for server in servers] == [2, 2, 2]
        for server in servers:
            server.pause = 0.05
        held = [engine.submit(asked(contexts, LONG)) for _ in range(3)]
        for stream in held:
            await anext(stream)
        await held[0].aclose()
        await until(lambda: sum(server.open for server in servers) == 2)
        [idle] = [server for server in servers if not server.open]
        async with aclosing(engine.submit(asked(contexts, LONG))) as stream:
            await anext(stream)
            assert idle.open == 1
        for stream in held:
            await stream.aclose()

    visit(ask, *servers)


@pytest.mark.parametrize(
    "fault", [{"dies_after": 0}, {"fails_after": 0}, {"status": 500}, {"status": 429}, {"hangs": True}]
)
def test_what_fails_before_the_first_token_is_answered_by_another(
    fault: dict[str, Any],
    replica: Start,
    visit: Callable,
    contexts: list[Dialogue],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only one that died or hangs is given no more requests: an error may be the request's own."""
    bad, good = replica(**fault), replica()

    async def ask(engine: VllmEngine) -> list[Answer]:
        return await answers(engine, [asked(contexts)] * 4)

    given = visit(ask, bad, good)
    assert len({answer.text for answer in given}) == 1
    assert len(given[0].pieces) > 1
    assert len(good.bodies) == 4
    assert len(bad.bodies) >= 1
    down = {record.note["replica"] for record in caplog.records if record.message == "replica.down"}
    assert down == ({bad.url} if "dies_after" in fault or "hangs" in fault else set())


def test_a_replica_that_is_slow_with_one_request_is_busy_and_not_down(
    replica: Start, visit: Callable, contexts: list[Dialogue], caplog: pytest.LogCaptureFixture
) -> None:
    """Its other replies go on; taking it out would send all its work to those that are as busy."""
    server = replica(pause=0.05)

    async def ask(engine: VllmEngine) -> None:
        async with aclosing(engine.submit(asked(contexts, LONG))) as stream:
            await anext(stream)
            server.hangs = True
            with pytest.raises(OverloadedError, match="no room"):
                await collect(engine.submit(asked(contexts)))
            await anext(stream)

    visit(ask, server)
    assert not [record for record in caplog.records if record.message == "replica.down"]


@pytest.mark.parametrize("fault", [{"dies_after": 2}, {"fails_after": 2}])
def test_what_fails_later_ends_with_an_error(
    fault: dict[str, Any], replica: Start, visit: Callable, contexts: list[Dialogue]
) -> None:
    """What was said cannot be taken back, and another replica would go on otherwise where tokens are drawn."""
    bad, good = replica(**fault), replica(pause=0.01)

    async def ask(engine: VllmEngine) -> None:
        stream = engine.submit(asked(contexts))
        with pytest.raises(UnavailableError, match="try again"):
            await collect(stream)
        assert (await collect(engine.submit(asked(contexts)))).finish == "length"

    visit(ask, bad, good)
    assert len(bad.bodies) == 1
    assert len(good.bodies) == 1


def test_a_refused_request_is_not_tried_elsewhere(replica: Start, visit: Callable, contexts: list[Dialogue]) -> None:
    servers = [replica(status=400), replica(status=400)]

    async def ask(engine: VllmEngine) -> None:
        with pytest.raises(UsageError, match=r"the model refuses the request \(status 400 it is\)"):
            await collect(engine.submit(asked(contexts)))
        assert engine.load().slots

    visit(ask, *servers)
    assert sum(len(server.bodies) for server in servers) == 1


def test_replicas_without_room_overload_the_gateway(replica: Start, visit: Callable, contexts: list[Dialogue]) -> None:
    servers = [replica(status=429), replica(status=503)]

    async def ask(engine: VllmEngine) -> OverloadedError:
        with pytest.raises(OverloadedError) as caught:
            await collect(engine.submit(asked(contexts)))
        return caught.value

    assert visit(ask, *servers).retry_after == 7.0
    assert [len(server.bodies) for server in servers] == [1, 1]


def test_a_request_is_tried_three_times_at_most(replica: Start, visit: Callable, contexts: list[Dialogue]) -> None:
    servers = [replica(status=500) for _ in range(5)]

    async def ask(engine: VllmEngine) -> None:
        with pytest.raises(UnavailableError, match="the model failed; try again"):
            await collect(engine.submit(asked(contexts)))

    visit(ask, *servers)
    assert sorted(Counter(len(server.bodies) for server in servers).items()) == [(0, 2), (1, 3)]


def test_a_replica_that_is_gone_is_waited_for(
    tiny_base: LoadedBase, replica: Start, visit: Callable, contexts: list[Dialogue]
) -> None:
    """Ill, then well; then another process at the same address, first with another model, then with the right one."""
    server = replica()

    async def ask(engine: VllmEngine) -> None:
        server.ill = True
        await until(lambda: engine.load() == Load(0, 0, 0, 0))
        with pytest.raises(UnavailableError, match="cannot be reached now"):
            engine.submit(asked(contexts))
        assert (await engine.select([asked(contexts)]))[0].scores, "choosing needs no replica"
        server.base, server.window = other_model(tiny_base), 200
        server.ill = False
        await asyncio.sleep(0.5)
        assert engine.load().slots == 0
        server.base = tiny_base
        await until(lambda: engine.load().slots == 16)
        assert engine.window == 200
        assert (await collect(engine.submit(asked(contexts)))).text

    visit(ask, server)


def test_the_gateway_may_be_there_first(
    tiny_base: LoadedBase, visit: Callable, contexts: list[Dialogue], caplog: pytest.LogCaptureFixture
) -> None:
    with running(ReplicaServer(tiny_base)) as early:
        pass  # its port is free again
    port = int(early.url.rpartition(":")[2])

    async def ask(engine: VllmEngine) -> None:
        assert engine.load().slots == 0
        with running(ReplicaServer(tiny_base), port):
            await until(lambda: engine.load().slots == 16)
            assert (await collect(engine.submit(asked(contexts)))).text

    visit(ask, early)
    [down] = [record for record in caplog.records if record.message == "replica.down"][:1]
    assert down.note["replica"] == early.url
    assert "Connect" in down.note["reason"]


def other_model(base: LoadedBase) -> LoadedBase:
    """Of the same shape, with other numbers."""
    model = make_architecture("llama", len(base.tokenizer))
    return LoadedBase(Backbone(model, base="other"), base.tokenizer)


@pytest.mark.parametrize("fault", ["flag", "model", "family", "width", "key", "path"])
def test_replicas_of_no_use_are_named_with_the_fix(
    fault: str, tiny_base: LoadedBase, replica: Start, visit: Callable, base_folder: Path
) -> None:
    wide = Backbone(make_architecture("opt-projected", len(tiny_base.tokenizer)), base="wide")
    what: dict[str, dict[str, Any]] = {
        "flag": {"embeds": False},
        "model": {"base": other_model(tiny_base)},
        "family": {"factor": 0.01},
        "width": {"base": LoadedBase(wide, tiny_base.tokenizer)},
        "key": {"key": "secret"},
        "path": {},
    }
    bad, good = replica(**what[fault]), replica()
    bad.url += "/v1" if fault == "path" else ""
    told = {
        "flag": f"was started without --enable-prompt-embeds; start it with `vllm serve {base_folder} --enable-prompt-embeds`",
        "model": "serves models/it, which does not say the same",
        "family": "serves models/it, which does not say the same",
        "width": "serves models/it: the model refuses the request (`prompt_embeds` hidden_size 32 does not match",
        "key": "refuses the key; give the one that vLLM was started with (--vllm-api-key-file)",
        "path": "does not answer like vLLM; give the address of a `vllm serve`, without /v1",
    }

    async def ask(engine: VllmEngine) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(ModelError) as caught:
        visit(ask, bad, good)
    assert str(caught.value).startswith(f"--engine: {bad.url} {told[fault]}")
    assert good.url not in str(caught.value)


def test_the_key_of_the_replicas(replica: Start, visit: Callable, contexts: list[Dialogue]) -> None:
    async def ask(engine: VllmEngine) -> Answer:
        return await collect(engine.submit(asked(contexts)))

    assert visit(ask, replica(key="secret"), key="secret").text


def test_a_request_that_no_replica_holds_is_refused_here(
    replica: Start, visit: Callable, contexts: list[Dialogue]
) -> None:
    servers = [replica(window=900), replica(window=300)]

    async def ask(engine: VllmEngine) -> None:
        assert engine.window == 300
        with pytest.raises(UsageError, match=r"max_new_tokens: .* holds 300 for a request"):
            await collect(engine.submit(asked(contexts, Decoding(max_new_tokens=290))))

    visit(ask, *servers)
    assert not servers[0].bodies
    assert not servers[1].bodies


@pytest.mark.parametrize(
    "change", [{"no_repeat_ngram_size": 3}, {"no_repeat_history_ngram": 2}, {"num_beams": 2}, {"kind": "fused"}]
)
def test_decoding_that_vllm_does_not_know_is_refused(
    change: dict[str, int], replica: Start, visit: Callable, contexts: list[Dialogue]
) -> None:
    server = replica()

    async def ask(engine: VllmEngine) -> None:
        with pytest.raises(UsageError, match="fused" if "kind" in change else next(iter(change))):
            await engine.submit(asked(contexts, Decoding(**change))).started()

    visit(ask, server)
    assert not server.bodies


def test_one_prompt_speaks_for_an_adapter_that_is_meant_for_all_together(
    replica: Start, visit: Callable, contexts: list[Dialogue], tiny_model: Callable[..., SPTModel], tmp_path: Path
) -> None:
    model = varied(tiny_model(), seed=1)  # that of adapter "one"
    model.speakers = Speakers("fused")
    folder = saved(model, tmp_path / "meant")

    async def ask(engine: VllmEngine) -> list[Answer]:
        await engine.adapters.add("meant", folder)
        requests = [asked(contexts), replace(asked(contexts), adapter="meant")]
        return await answers(engine, requests)

    one, meant = visit(ask, replica())
    assert (meant.text, meant.tokens) == (one.text, one.tokens)


def test_the_queue_has_an_end_and_no_more_is_sent_than_slots(
    replica: Start, visit: Callable, contexts: list[Dialogue]
) -> None:
    server = replica(pause=0.01)

    async def ask(engine: VllmEngine) -> list[Answer]:
        streams = [engine.submit(asked(contexts)) for _ in range(5)]
        with pytest.raises(OverloadedError, match="all 2 slots are busy and 3 requests wait"):
            engine.submit(asked(contexts))
        await until(lambda: engine.load() == Load(2, 3, 2, 3))
        await streams.pop().aclose()
        given = list(await asyncio.gather(*map(collect, streams)))
        assert engine.load() == Load(0, 0, 2, 3)
        return given

    assert len(visit(ask, server, slots=2, queue_limit=3)) == 4
    assert server.most == 2
    assert len(server.bodies) == 4, "the one that was closed while it waited was not sent"


def test_stopping_drains_or_ends_what_is_open(replica: Start, visit: Callable, contexts: list[Dialogue]) -> None:
    server = replica()

    async def ask(engine: VllmEngine) -> None:
        first = asyncio.create_task(collect(engine.submit(asked(contexts))))
        await asyncio.sleep(0)
        await engine.stop(drain=30)
        assert (await first).finish == "length"
        with pytest.raises(UnavailableError):
            engine.submit(asked(contexts))
        await engine.start()
        server.pause = 0.1  # so slow that none has ended, however busy the machine is
        streams = [engine.submit(asked(contexts, LONG)) for _ in range(3)]
        await until(lambda: server.open == 2)  # any two: they are prepared side by side
        await engine.stop()
        for stream in streams:
            with pytest.raises(UnavailableError, match="stops"):
                await collect(stream)
        await until(lambda: server.open == 0)

    visit(ask, server, slots=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no address"),
        ("localhost:8000", "'localhost:8000' is no address of a vLLM server; write vllm:http://HOST:PORT"),
        ("http://a:1,", "'' is no address"),
        ("http://a:99999", "is no address"),
        ("http://user:word@a:1", "is no address"),
        ("http://a:1,http://b:1,http://a:1/", "http://a:1 is there twice"),
    ],
)
def test_addresses_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_urls(text)
