"""`sptune serve` with ten times more clients than slots, over HTTP. Bars are limits within one run.

Run it on a quiet machine:  python benchmarks/serve_overload.py [--quick] [--seconds 300] [--slots 16]

Every client asks for a reply, waits for as long as `Retry-After` says where it is refused (429), and asks again; every other one streams.
No answer is anything but 200 or 429, the memory of the server does not grow, and a single request is answered as fast as before within 10 seconds.

`--quick` says whether it works, not how good it is.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
from endless import write_endless
from server_process import server, verdict

FACTOR, NEW_TOKENS = 10, 32
_COUNTER = itertools.count()


@dataclass
class Crowd:
    """Clients of one server.

    Attributes:
        answers: how often each status came; a connection that failed counts as its error.
    """

    http: httpx2.AsyncClient
    answers: collections.Counter[str] = field(default_factory=collections.Counter)

    async def ask(self, *, streamed: bool = False) -> httpx2.Response:
        """One request that nobody made before."""
        text = f"what do you think of number {next(_COUNTER)} ?"
        body = {"model": "bench", "persona": ["i keep bees ."], "messages": [{"role": "user", "content": text}]}
        more = {"max_tokens": NEW_TOKENS, "temperature": 0, "stream": streamed}
        return await self.http.post("/v1/chat/completions", json=body | more)

    async def talk(self, end: float, *, streamed: bool) -> None:
        """Ask until `end`."""
        while time.perf_counter() < end:
            try:
                answer = await self.ask(streamed=streamed)
            except httpx2.HTTPError as error:
                self.answers[type(error).__name__] += 1
                continue
            whole = answer.status_code != 200 or not streamed or answer.text.endswith("data: [DONE]\n\n")
            self.answers[str(answer.status_code) if whole else "broken off"] += 1
            if answer.status_code == 429:
                await asyncio.sleep(float(answer.headers["Retry-After"]))

    async def latency(self) -> float:
        """Seconds of a single request."""
        begin = time.perf_counter()
        (await self.ask()).raise_for_status()
        return time.perf_counter() - begin


async def overload(url: str, pid: int, *, slots: int, seconds: float) -> None:
    process = psutil.Process(pid)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        crowd = Crowd(http)
        usual = statistics.median([await crowd.latency() for _ in range(5)])
        begin = time.perf_counter()
        clients = [
            asyncio.create_task(crowd.talk(begin + seconds, streamed=bool(number % 2)))
            for number in range(FACTOR * slots)
        ]
        await asyncio.sleep(seconds / 3)
        early = process.memory_info().rss
        await asyncio.sleep(begin + seconds - time.perf_counter())
        late = process.memory_info().rss
        await asyncio.gather(*clients)
        over = time.perf_counter()
        after = await crowd.latency()
        while after > 1.5 * usual and time.perf_counter() < over + 60:
            after = await crowd.latency()
        recovered = time.perf_counter() - over
    print(f"answers: {dict(crowd.answers)}; a single request took {usual:.2f} s before, {after:.2f} s afterwards")
    failed = crowd.answers.total() - crowd.answers["200"] - crowd.answers["429"]
    verdict("answers other than 200 and 429", failed, 0, most=True)
    verdict("replies while there was too much to do", crowd.answers["200"], 1, most=False)
    verdict("memory at the end against a third of the time", late / early, 1.05, most=True)
    verdict("until a single request was as fast as before (1.5 times)", recovered, 10, most=True, unit=" s")


@contextmanager
def served(base: str, slots: int) -> Iterator[tuple[str, int]]:
    """A server whose replies all have as many tokens, so that their times can be compared."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_endless(folder, base=base)
        what = ("serve", f"bench={folder / 'adapter'}", "--slots", str(slots), "--log-level", "warning")
        with server("sptune.cli.main", *what, log=folder / "log") as running:
            yield running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="15 seconds and 4 slots")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--base", default="smollm2-135m")
    args = parser.parse_args()
    slots, seconds = (4, 15.0) if args.quick else (args.slots, args.seconds)
    with served(args.base, slots) as (url, pid):
        asyncio.run(overload(url, pid, slots=slots, seconds=seconds))


if __name__ == "__main__":
    main()
