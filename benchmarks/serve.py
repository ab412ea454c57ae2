"""Serving on this machine: batching, selection, many adapters. Bars are ratios and limits within one run.

Run it on a quiet machine:  python benchmarks/serve.py [--quick] [--only batching selection adapters]

Clients talk: each goes through dialogues of its own turn by turn, and asks for the next turn as soon as it has its reply.

batching   tokens a second of 16 clients at the same time against those of one (at least 4 times as many)
selection  seconds to score 16 prompts for a context of 200 tokens, without and with encoding new text (p50 of scoring below 1 ms)
adapters   memory that 1,000 adapters take (below 2 GB), and 16 clients of them all against 16 clients of one (at least 0.9)

serve_overload.py and serve_vllm.py measure what their names say.
`--quick` shortens everything; its figures say whether it works, not how fast it is.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from endless import write_endless
from server_process import verdict

from sptune.data.dialogue import Dialogue
from sptune.data.load import load_dialogues
from sptune.engine.batching import BatchingEngine
from sptune.engine.loaded_adapter import AdapterLoader
from sptune.engine.serving import ServingRequest
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase, load_base
from sptune.model.spt import SPTModel

CLIENTS = 16
_COUNTER = itertools.count()
SELECTION_PROMPTS, SELECTION_TOKENS = 16, 200


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    talks: int = 1  # of each client
    turns: int = 4  # of each talk
    new_tokens: int = 32
    repeat: int = 3
    adapters: int = 1000
    selections: int = 500


QUICK = Size(turns=2, new_tokens=16, repeat=1, adapters=100, selections=100)


@dataclass(frozen=True)
class Bench:
    """What every part needs."""

    base: LoadedBase
    adapter: Path
    dialogues: list[Dialogue]
    size: Size

    def talk(self, number: int) -> Dialogue:
        """A dialogue that no other part or run has seen: nothing of it is known to the engine."""
        talk = self.dialogues[number % len(self.dialogues)]
        return replace(talk, persona=(f"my number is {next(_COUNTER)} .", *talk.persona))

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.size.new_tokens)


def resident() -> float:
    """Memory of this process, MB."""
    return psutil.Process().memory_info().rss / 2**20


async def reply(engine: BatchingEngine, request: ServingRequest) -> int:
    tokens = 0
    async with aclosing(engine.submit(request)) as stream:
        async for piece in stream:
            tokens = piece.tokens
    return tokens


async def throughput(engine: BatchingEngine, bench: Bench, *, clients: int, names: list[str]) -> float:
    """New tokens a second of clients that talk at the same time; every talk is with another adapter of `names`."""
    asked = [
        [ServingRequest(name, talk.context(turn), bench.decoding) for turn in range(bench.size.turns)]
        for talk, name in ((bench.talk(n), random.choice(names)) for n in range(clients * bench.size.talks))
    ]

    async def client(number: int) -> int:
        return sum([await reply(engine, request) for talk in asked[number::clients] for request in talk])

    start = time.perf_counter()
    tokens = sum(await asyncio.gather(*map(client, range(clients))))
    return tokens / (time.perf_counter() - start)


async def started(bench: Bench, names: list[str]) -> BatchingEngine:
    engine = BatchingEngine(bench.base, slots=CLIENTS)
    await engine.start()
    for name in names:
        await engine.adapters.add(name, bench.adapter)
    return engine


async def medians(repeat: int, *runs: Callable[[], Awaitable[float]]) -> list[float]:
    """Medians of runs that take turns, so that what else the machine does hits all of them."""
    rounds = [[await run() for run in runs] for _ in range(repeat)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


async def batching(bench: Bench) -> None:
    engine = await started(bench, ["one"])
    one = replace(bench, size=replace(bench.size, talks=3))
    await throughput(engine, bench, clients=CLIENTS, names=["one"])  # warm up
    single, many = await medians(
        bench.size.repeat,
        lambda: throughput(engine, one, clients=1, names=["one"]),
        lambda: throughput(engine, bench, clients=CLIENTS, names=["one"]),
    )
    await engine.stop()
    print(f"one client: {single:.1f} tokens/s; {CLIENTS} clients: {many:.1f}")
    verdict(f"{CLIENTS} clients against one", many / single, 4, most=False)


async def selection(bench: Bench) -> None:
    model = SPTModel.from_base(bench.base, num_prompts=SELECTION_PROMPTS)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        adapter = AdapterLoader(bench.base).load(folder)
    scoring: list[float] = []
    whole: list[float] = []
    for number in range(bench.size.selections):
        talk = bench.dialogues[number % len(bench.dialogues)]
        context = talk.context(len(talk.turns) - 1).answer("yes .").say(f"and what about number {number} ?")
        begin = time.perf_counter()
        ids = (adapter.model.encoder.encode_context(context).input_ids * 2)[:SELECTION_TOKENS]
        encoded = time.perf_counter()
        adapter.scores(ids)
        scoring.append(time.perf_counter() - encoded)
        whole.append(time.perf_counter() - begin)
    p50, p99 = (1000 * statistics.quantiles(scoring, n=100)[p - 1] for p in (50, 99))
    print(f"selection p99: {p99:.2f} ms; with encoding a new message p50: {1000 * statistics.median(whole):.2f} ms")
    verdict("selection p50", p50, 1, most=True, unit=" ms")


async def adapters(bench: Bench) -> None:
    count = bench.size.adapters
    engine = await started(bench, ["one"])
    await throughput(engine, bench, clients=CLIENTS, names=["one"])  # warm up
    before, begin = resident(), time.perf_counter()
    names = [f"adapter-{number}" for number in range(count)]
    for name in names:
        await engine.adapters.add(name, bench.adapter)
    print(f"{count} adapters loaded in {time.perf_counter() - begin:.0f} s", flush=True)
    grown = (resident() - before) / count * 1000 / 1024
    one, all_of_them = await medians(
        bench.size.repeat,
        lambda: throughput(engine, bench, clients=CLIENTS, names=["one"]),
        lambda: throughput(engine, bench, clients=CLIENTS, names=names),
    )
    await engine.stop()
    verdict("memory of 1,000 adapters", grown, 2, most=True, unit=" GB")
    verdict(f"throughput of {count} adapters against one", all_of_them / one, 0.9, most=False)


PARTS = {"batching": batching, "selection": selection, "adapters": adapters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--data", default="sample:train")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_endless(folder, base=args.base)
        size = QUICK if args.quick else Size()
        dialogues = [talk for talk in load_dialogues(args.data) if len(talk.turns) >= size.turns]
        bench = Bench(load_base(str(folder / "base")), folder / "adapter", dialogues, size)
        for part in args.only:
            print(f"-- {part}", flush=True)
            asyncio.run(PARTS[part](bench))


if __name__ == "__main__":
    main()
