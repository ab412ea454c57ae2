"""vLLM with soft prompts against plain vLLM with text prompts of as many tokens: tokens a second, and time to the first token.

Run it on a quiet machine, in the environment of scripts/vllm_tests.py:

    .venv-vllm/bin/python benchmarks/serve_vllm.py [--quick] [--only in_process gateway] [--clients 8]

in_process  `--engine vllm` against the same AsyncLLM asked with texts
gateway     `sptune serve --engine vllm:http://...` against the same vLLM server asked with texts, all streamed

Every request is new, so that vLLM has none of it in its cache; a text has exactly as many tokens as the prompt and context of its counterpart,
and every reply all its tokens. Both sides are asked in turns; figures are medians over rounds, ratios are within a round.
Soft prompts: at least 0.95 of the throughput, at most 1.05 of the time to the first token (p50).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from endless import write_endless
from server_process import Reply, Run, crowd, server, stream, verdict
from vllm.sampling_params import RequestOutputKind, SamplingParams

from sptune.data.dialogue import Dialogue
from sptune.data.load import load_dialogues
from sptune.engine.loaded_adapter import AdapterLoader, LoadedAdapter
from sptune.engine.prepared import prepare
from sptune.engine.serving import ServingRequest
from sptune.engine.vllm.embeddings_base import load_embeddings
from sptune.engine.vllm.engine import VllmEngine
from sptune.engine.vllm.in_process import InProcessSource
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase

NAME, PROMPTS, LENGTH, TURN = "bench", 4, 8, 3
_COUNTER = itertools.count(1000)
Ask = Callable[[Any], Awaitable[Reply]]


@dataclass(frozen=True)
class Bench:
    """What both parts need."""

    folder: Path
    base: LoadedBase
    adapter: LoadedAdapter
    dialogues: list[Dialogue]
    clients: int
    requests: int
    rounds: int
    new_tokens: int
    dtype: str
    compiled: bool

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.new_tokens)

    def pair(self) -> tuple[Dialogue, str]:
        """A context, and a text of as many tokens as it has with its prompt; vLLM has seen the beginning of neither."""
        talk = next_talk(self.dialogues)
        read = prepare(ServingRequest(NAME, talk, self.decoding), self.adapter).prompt_tokens
        return talk, text_of(read, talk, self.base.tokenizer)


def next_talk(dialogues: list[Dialogue]) -> Dialogue:
    number = next(_COUNTER)
    talk = dialogues[number % len(dialogues)]
    return replace(talk, persona=(f"my number is {number} .", *talk.persona)).context(TURN)


def text_of(length: int, talk: Dialogue, tokenizer: Any) -> str:
    """A text of `length` tokens."""
    words = " ".join([*talk.persona, *(f"{turn.user} {turn.response or ''}" for turn in talk.turns)])
    ids = tokenizer.encode(f"{words} {words}", add_special_tokens=False)[:length]
    text = tokenizer.decode(ids)
    while (missing := length - len(tokenizer.encode(text))) > 0:
        text += " and" * missing
    return text if missing == 0 else text_of(length, replace(talk, persona=("so", *talk.persona)), tokenizer)


async def compare(bench: Bench, what: str, spt: Ask, plain: Ask) -> None:
    """Ask both in turns and print the verdicts."""
    rounds = [await one_round(bench, spt, plain, spt_first=bool(n % 2)) for n in range(bench.rounds + 1)]
    rounds = rounds[1:]  # the first one warms up
    for number, name in enumerate(("soft prompts", "texts")):
        rate = statistics.median(pair[number].throughput for pair in rounds)
        first = statistics.median(pair[number].first for pair in rounds)
        print(f"{what}, {name}: {rate:.1f} tokens/s, first token after {1000 * first:.0f} ms")
    rate = statistics.median(ours.throughput / theirs.throughput for ours, theirs in rounds)
    first = statistics.median(ours.first / theirs.first for ours, theirs in rounds)
    verdict(f"{what}, throughput against texts", rate, 0.95, most=False)
    verdict(f"{what}, time to the first token against texts", first, 1.05, most=True)


async def one_round(bench: Bench, spt: Ask, plain: Ask, *, spt_first: bool) -> tuple[Run, Run]:
    """As many requests of both kinds."""
    talks, texts = zip(*(bench.pair() for _ in range(bench.requests)), strict=True)
    if spt_first:
        ours, theirs = await crowd(spt, talks, bench.clients), await crowd(plain, texts, bench.clients)
    else:
        theirs, ours = await crowd(plain, texts, bench.clients), await crowd(spt, talks, bench.clients)
    read = [sorted(reply.prompt_tokens for reply in run.replies) for run in (ours, theirs)]
    assert read[0] == read[1], "prompts differ in length"
    assert {reply.tokens for run in (ours, theirs) for reply in run.replies} == {bench.new_tokens}, (
        "a reply ended early"
    )
    return ours, theirs


async def in_process(bench: Bench) -> None:
    source = InProcessSource(
        str(bench.folder / "base"), dtype=bench.dtype, slots=bench.clients, places=16_384, compiled=bench.compiled
    )
    engine = VllmEngine(bench.base, source)
    await engine.start()
    await engine.adapters.add(NAME, bench.folder / "adapter")

    async def spt(talk: Dialogue) -> Reply:
        begin, first, tokens = time.perf_counter(), 0.0, 0
        async with aclosing(engine.submit(ServingRequest(NAME, talk, bench.decoding))) as pieces:
            async for piece in pieces:
                first = first or time.perf_counter() - begin
                tokens = piece.tokens
        return Reply(first, pieces.prompt_tokens, tokens)

    await compare(bench, "in process", spt, plain_engine(source, bench.new_tokens))
    await engine.stop()


def plain_engine(source: InProcessSource, new_tokens: int) -> Callable[[str], Awaitable[Reply]]:
    """Asks the source's own AsyncLLM with a text."""
    llm: Any = source._engine
    sampling = SamplingParams(
        max_tokens=new_tokens, temperature=0, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )

    async def plain(text: str) -> Reply:
        begin, first, tokens = time.perf_counter(), 0.0, 0
        async for output in llm.generate({"prompt": text}, sampling, uuid.uuid4().hex):
            first = first or time.perf_counter() - begin
            tokens += len(output.outputs[0].token_ids)
        return Reply(first, len(output.prompt_token_ids), tokens)

    return plain


async def gateway(bench: Bench) -> None:
    base = str(bench.folder / "base")
    asked = ("--model", base, "--served-model-name", "plain", "--enable-prompt-embeds", "--dtype", bench.dtype)
    limits = (
        "--max-model-len",
        "2048",
        "--max-num-seqs",
        str(bench.clients),
        *([] if bench.compiled else ["--enforce-eager"]),
    )
    with server("vllm.entrypoints.openai.api_server", *asked, *limits, log=bench.folder / "vllm.log") as (vllm, _):
        served = (
            f"{NAME}={bench.folder / 'adapter'}",
            "--base",
            base,
            "--engine",
            f"vllm:{vllm}",
            "--dtype",  # what vLLM computes in: half the bytes
            bench.dtype,
            "--log-level",
            "warning",
        )
        with server("sptune.cli.main", "serve", *served, log=bench.folder / "gateway.log") as (url, _):
            async with httpx2.AsyncClient(timeout=300) as client:

                def spt(talk: Dialogue) -> Awaitable[Reply]:
                    return stream(client, f"{url}/v1/chat/completions", chat_body(talk, bench.new_tokens))

                def plain(text: str) -> Awaitable[Reply]:
                    body = {
                        "model": "plain",
                        "prompt": text,
                        "max_tokens": bench.new_tokens,
                        "temperature": 0,
                        "ignore_eos": True,
                    }
                    return stream(client, f"{vllm}/v1/completions", body)

                await compare(bench, "gateway", spt, plain)


def chat_body(talk: Dialogue, new_tokens: int) -> dict[str, Any]:
    """The chat request that becomes the context `talk`."""
    said = [
        (role, text)
        for turn in talk.turns
        for role, text in (("user", turn.user), ("assistant", turn.response))
        if text
    ]
    messages = [{"role": role, "content": text} for role, text in said]
    return {
        "model": NAME,
        "persona": list(talk.persona),
        "messages": messages,
        "max_tokens": new_tokens,
        "temperature": 0,
    }


PARTS = {"in_process": in_process, "gateway": gateway}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="whether it works, not how fast it is")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    args = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; the same for both parts
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    requests, rounds, new_tokens = (args.clients, 1, 16) if args.quick else (6 * args.clients, 5, 32)
    dialogues = [talk for talk in load_dialogues("sample:train") if len(talk.turns) > TURN]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_endless(folder, num_prompts=PROMPTS, prompt_length=LENGTH)
        base = load_embeddings(str(folder / "base"), dtype="float32")
        adapter = AdapterLoader(base).load(folder / "adapter")
        bench = Bench(
            folder, base, adapter, dialogues, args.clients, requests, rounds, new_tokens, args.dtype, not args.quick
        )
        for part in args.only:
            print(f"-- {part}", flush=True)
            asyncio.run(PARTS[part](bench))


if __name__ == "__main__":
    main()
