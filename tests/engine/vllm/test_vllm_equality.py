"""Greedy replies of vLLM, in this process and behind the gateway, are those of the engine on this machine: the real default model."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.serving_clients import Answer, answers
from engine.vllm.real_vllm import Running, running, vllm_serve
from sptune.data.dialogue import Dialogue
from sptune.data.load import load_dialogues
from sptune.engine.batching import BatchingEngine
from sptune.engine.serving import ServingRequest
from sptune.engine.vllm.embeddings_base import load_embeddings
from sptune.engine.vllm.engine import VllmEngine
from sptune.engine.vllm.in_process import InProcessSource
from sptune.engine.vllm.replicas import Replicas
from sptune.model.generate import Decoding
from sptune.model.load import load_base, locate
from sptune.model.spt import SPTModel

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

MODEL = "smollm2-135m"
GREEDY = Decoding(max_new_tokens=24)
TALKS, KNOWN = 8, 10
# In bfloat16 a log-probability of -3 to -8 is rounded to 1/64 .. 1/32, after a sum that each engine orders in its own way.
TOLERANCE = {"float32": 0.0, "bfloat16": 0.25}
"""How much more probable (natural logarithm) an engine may hold its token than the other's, where their replies part."""


@dataclass(frozen=True)
class Engines:
    """The same adapters on all three engines, and what the local one answered to `_requests`."""

    dtype: str
    local: list[Answer]
    inside: Running
    gateway: Running


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters whose prompts are rows of the vocabulary, in different numbers, lengths and templates."""
    base = load_base(MODEL, dtype="float32")
    root = tmp_path_factory.mktemp("adapters")
    made = {
        "two": SPTModel.from_base(base, num_prompts=2, prompt_length=4, template="chat", seed=1),
        "four": SPTModel.from_base(base, num_prompts=4, prompt_length=8, seed=2),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
    return {name: root / name for name in made}


both = pytest.mark.parametrize("engines", ["float32", "bfloat16"], indirect=True, scope="module")
exact = pytest.mark.parametrize("engines", ["float32"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def engines(
    request: pytest.FixtureRequest, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    dtype = request.param
    base, log = load_embeddings(MODEL, dtype="float32"), tmp_path_factory.mktemp("vllm") / "serve.log"
    with running(BatchingEngine(load_base(MODEL, dtype=dtype)), adapters) as live:
        local = live.call(answers(live.engine, _requests()))
    with ExitStack() as stack:
        replica = stack.enter_context(vllm_serve(locate(MODEL), log, dtype=dtype))
        yield Engines(
            dtype,
            local,
            stack.enter_context(
                running(VllmEngine(base, InProcessSource(MODEL, dtype=dtype, compiled=False)), adapters)
            ),
            stack.enter_context(
                running(VllmEngine(base, Replicas([replica.url], base, slots=16, read_seconds=300)), adapters)
            ),
        )


def _contexts() -> list[Dialogue]:
    """The last turn of the first bundled dialogues."""
    return [talk.context(len(talk.turns) - 1) for talk in load_dialogues("sample:train")[:TALKS]]


def _requests() -> list[ServingRequest]:
    """Every context, with every adapter and prompt mixed, chosen or forced, and with the bare model."""
    asked = [(None, None), ("two", None), ("two", 0), ("two", 1), ("four", None), *(("four", k) for k in range(4))]
    return [
        ServingRequest(adapter, context, GREEDY, prompt=prompt, logprobs=KNOWN)
        for number, context in enumerate(_contexts())
        for adapter, prompt in (asked[number % len(asked)], asked[(number + 4) % len(asked)], ("four", None))
    ]


def _said(answer: Answer) -> list[str]:
    """The tokens of a reply, and an empty one where a token ended it."""
    tokens = [one.token for piece in answer.pieces for one in piece.logprobs]
    return [*tokens, ""] if answer.finish == "stop" else tokens


def _margin(local: Answer, other: Answer) -> float | None:
    """Where two replies part: how much more probable one engine held its own token than the other's. None: they are equal."""
    mine, theirs = _said(local), _said(other)
    if mine == theirs:
        return None
    place = next((at for at, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
    assert place is not None, "one reply is the beginning of the other, without an end"
    known = [one for piece in local.pieces for one in piece.logprobs]
    rival = theirs[place]
    if place >= len(known):  # the token that ended the reply has no log-probability of its own
        known, rival = [one for piece in other.pieces for one in piece.logprobs], ""
    top = {one.token: one.logprob for one in known[place].top}
    return known[place].logprob - top.get(rival, -math.inf)


def _check(local: Sequence[Answer], other: Sequence[Answer], dtype: str) -> None:
    assert [a.selection and a.selection.prompt for a in local] == [b.selection and b.selection.prompt for b in other]
    margins = [_margin(a, b) for a, b in zip(local, other, strict=True)]
    parted = [margin for margin in margins if margin is not None]
    sys.stdout.write(f"{dtype}: {len(margins) - len(parted)} of {len(margins)} replies are equal; margins: {parted}\n")
    if dtype == "float32":
        assert not parted
        assert [(a.text, a.tokens, a.finish) for a in local] == [(b.text, b.tokens, b.finish) for b in other]
    assert all(margin <= TOLERANCE[dtype] for margin in parted), parted


@both
@pytest.mark.parametrize("place", ["inside", "gateway"])
def test_greedy_replies_are_those_of_the_local_engine(engines: Engines, place: str) -> None:
    live: Running = getattr(engines, place)
    assert len({answer.text for answer in engines.local}) > TALKS  # the adapters do differ
    _check(engines.local, live.call(answers(live.engine, _requests())), engines.dtype)


@exact
def test_logprobs_are_those_of_the_local_engine(engines: Engines) -> None:
    asked = _requests()[:6]
    found = [live.call(answers(live.engine, asked)) for live in (engines.inside, engines.gateway)]
    for local, *others in zip(engines.local[:6], *found, strict=True):
        for other in others:
            for mine, theirs in zip(local.pieces, other.pieces, strict=True):
                for a, b in zip(mine.logprobs, theirs.logprobs, strict=True):
                    assert a.token == b.token
                    assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
                    assert len(a.top) == len(b.top) == KNOWN
                    assert [one.logprob for one in a.top] == pytest.approx([one.logprob for one in b.top], abs=1e-3)


@exact
def test_replies_are_the_same_alone_and_in_a_crowd(engines: Engines) -> None:
    asked = _requests()
    for live in (engines.inside, engines.gateway):
        crowd = live.call(answers(live.engine, asked * 2))
        for number in (0, 7, 12):
            alone = live.call(answers(live.engine, [asked[number]]))[0]
            assert alone.text == crowd[number].text == crowd[number + len(asked)].text


@exact
def test_a_seed_draws_the_same_reply_again_and_another_seed_another(engines: Engines) -> None:
    context = _contexts()[0]

    def drawn(live: Running, seed: int) -> str:
        decoding = Decoding(max_new_tokens=24, temperature=1.0, top_p=0.9, seed=seed)
        return live.call(answers(live.engine, [ServingRequest("four", context, decoding)]))[0].text

    for live in (engines.inside, engines.gateway):
        assert drawn(live, 1) == drawn(live, 1)
        assert len({drawn(live, seed) for seed in range(4)}) > 1


@exact
def test_two_adapters_at_once_do_not_mix(engines: Engines) -> None:
    """Each of many concurrent replies is about its own persona's secret word, which no other reply ever says."""
    words = [f"zq{number}x{7 * number + 3}" for number in range(12)]

    def asked(word: str, adapter: str | None) -> ServingRequest:
        talk = Dialogue(word, (f"my secret word is {word} .",), ()).say(f"repeat after me : {word} {word} {word}")
        return ServingRequest(adapter, talk, Decoding(max_new_tokens=32))

    names = [None, "two", "four"]
    requests = [asked(word, names[number % 3]) for number, word in enumerate(words)]
    for live in (engines.inside, engines.gateway):
        texts = [answer.text for answer in live.call(answers(live.engine, requests))]
        assert sum(word in text for word, text in zip(words, texts, strict=True)) >= 2  # it does repeat words
        for number, text in enumerate(texts):
            assert not [word for at, word in enumerate(words) if at != number and word in text]


@exact
def test_a_reply_that_is_left_is_aborted_in_vllm(engines: Engines) -> None:
    live = engines.inside

    async def leave() -> tuple[int, int]:
        stream = live.engine.submit(ServingRequest("four", _contexts()[0], Decoding(max_new_tokens=1000)))
        await anext(stream)
        vllm = live.engine._source._engine
        before = vllm.get_num_unfinished_requests()
        await stream.aclose()
        for _ in range(300):
            if not vllm.get_num_unfinished_requests() and not live.engine.load().running:
                break
            await asyncio.sleep(0.1)
        return before, vllm.get_num_unfinished_requests()

    assert live.call(leave()) == (1, 0)
    short = ServingRequest("four", _contexts()[0], Decoding(max_new_tokens=4))
    assert live.call(answers(live.engine, [short]))[0].tokens <= 4
