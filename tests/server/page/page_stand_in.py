"""A server of the page's API without a model: it says what it is told to say, word by word, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from sptune.server.page import add_page

PERSONAS = {
    "beekeeper": ["I keep bees on the roof of a library.", "I am afraid of heights.", "My sister plays the oboe."],
    "baker": ["I bake rye bread before dawn.", "I never learned to swim."],
}
REPLIES = (
    "I like reading by the window, with tea.",
    "Have you ever seen a swarm? It sounds like rain.",
    "I have two dogs and no patience.",
    "On Sundays I climb to the library roof and look after the hives, although I am afraid of heights.",
)
SCORES = (0.0496, 0.0312, 0.0, 0.113)


def model(name: str, prompts: int, length: int = 8) -> dict[str, Any]:
    """An entry of `/v1/models`."""
    spt = {"num_prompts": prompts, "prompt_length": length, "base": "smollm2-135m"} if prompts else None
    return {"id": name, "object": "model", "owned_by": "sptune", **({"spt": spt} if spt else {})}


@dataclass
class StandIn:
    """What the server does; tests change it between requests.

    Attributes:
        key: the key it asks for, if any.
        models: what it has.
        replies: texts by prompt; the last is also what a model without prompts says.
        scores: of the prompts.
        weights: of the prompts where all speak together, unless one is asked for; their reply is the last.
        pause: seconds between two words.
        delay: seconds before it tells which models it has.
        failures: (status, seconds of Retry-After or 0, message) of the next completions, first to last.
        break_after: words after which the connection of a reply breaks off.
        records: whether talks are kept and feedback is taken.
        retention_days: how long talks are kept; None: for good.
        asked: bodies of the completion requests.
        ratings: bodies of the feedback.
        cut: replies whose reader went away before their end.
    """

    key: str | None = None
    models: list[dict[str, Any]] = field(default_factory=lambda: [model("base", 0), model("quickstart", 4)])
    personas: dict[str, list[str]] = field(default_factory=lambda: dict(PERSONAS))
    replies: tuple[str, ...] = REPLIES
    scores: tuple[float, ...] = SCORES
    weights: tuple[float, ...] | None = None
    pause: float = 0.0
    delay: float = 0.0
    failures: list[tuple[int, int, str]] = field(default_factory=list)
    break_after: int | None = None
    records: bool = True
    retention_days: float | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    ratings: list[dict[str, Any]] = field(default_factory=list)
    cut: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()
        add_page(app)
        app.middleware("http")(self._check_key)
        app.get("/v1/models")(self._list_models)
        app.get("/v1/spt/personas")(self._list_personas)
        app.get("/version")(self._tell_version)
        app.post("/v1/chat/completions")(self._complete)
        app.post("/v1/feedback")(self._rate)
        return app

    async def _check_key(self, request: Request, call_next: Any) -> Response:
        given = request.headers.get("Authorization")
        if self.key and request.url.path.startswith("/v1/") and given != f"Bearer {self.key}":
            return error(401, "This server needs a key: send it as a bearer token.")
        return await call_next(request)

    async def _list_models(self) -> dict[str, Any]:
        await asyncio.sleep(self.delay)
        return {"object": "list", "data": self.models}

    async def _list_personas(self) -> dict[str, Any]:
        return {"personas": self.personas}

    async def _tell_version(self) -> dict[str, Any]:
        return {"version": "0", "records": self.records, "retention_days": self.retention_days}

    async def _rate(self, request: Request) -> Response:
        if not self.records:
            return error(404, "This server keeps no records.")
        self.ratings.append(await request.json())
        return JSONResponse({"recorded": True})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if self.failures:
            status, wait, message = self.failures.pop(0)
            return error(status, message, wait=wait)
        return StreamingResponse(self._stream(body), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        prompts = next(one for one in self.models if one["id"] == body["model"]).get("spt", {}).get("num_prompts", 0)
        best = sorted(self.scores[:prompts], reverse=True)
        forced = body.get("prompt")
        chosen = forced if isinstance(forced, int) else self.scores.index(best[0]) if best else -1
        selection = {
            "prompt": chosen,
            "scores": list(self.scores[:prompts]),
            "margin": best[0] - best[1] if prompts > 1 else 0,
            "weights": None if isinstance(forced, int) else self.weights,
        }
        name = f"chatcmpl-{len(self.asked)}"
        whole = False
        try:
            yield chunk(name, {"role": "assistant", "content": ""}, spt=selection if prompts else None)
            for number, word in enumerate(self.replies[chosen].split(" ")):
                await asyncio.sleep(self.pause)
                if number == self.break_after:
                    raise ConnectionError("the stand-in broke off")
                yield chunk(name, {"content": word if number == 0 else f" {word}"})
            yield chunk(name, {}, finish="stop")
            yield "data: [DONE]\n\n"
            whole = True
        finally:
            self.cut += not whole


def chunk(name: str, delta: dict[str, str], *, finish: str | None = None, spt: dict[str, Any] | None = None) -> str:
    """A chunk of a streamed chat completion, as an event."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    extra = {"spt": spt} if spt else {}
    return f"data: {json.dumps({'id': name, 'object': 'chat.completion.chunk', 'choices': [choice], **extra})}\n\n"


def error(status: int, message: str, *, wait: int = 0) -> JSONResponse:
    """An error in OpenAI's form."""
    headers = {"Retry-After": str(wait)} if wait else None
    return JSONResponse({"error": {"message": message, "type": "error", "code": None}}, status, headers)
