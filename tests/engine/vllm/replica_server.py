"""A server that speaks vLLM's protocol and really generates, with a tiny model. It can be told to fail in every way."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sptune.model.load import LoadedBase


class DeathError(Exception):
    """Raised within a reply: uvicorn then breaks the connection off."""


@dataclass
class ReplicaServer:
    """What a replica does, and what it saw.

    Attributes:
        base: the model that it runs.
        embeds: whether it takes embeddings (`--enable-prompt-embeds`).
        factor: that it gives embeddings and not tokens.
        key: that it asks for.
        window: `max_model_len`.
        status: that every completion is answered with, in place of a reply.
        dies_after: tokens of a reply after which the connection breaks off.
        fails_after: tokens of a reply after which an event tells of an error.
        hangs: completions get no answer.
        ill: `/health` answers 500.
        pause: seconds before each token.
        bodies: of the completions it was asked for, those of the probe left out.
        open: completions under way.
        most: at the same time.
        aborted: completions that the other side left.
    """

    base: LoadedBase
    embeds: bool = True
    factor: float = 1.0
    key: str | None = None
    window: int = 1024
    status: int | None = None
    dies_after: int | None = None
    fails_after: int | None = None
    hangs: bool = False
    ill: bool = False
    pause: float = 0.0
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0
    most: int = 0
    aborted: int = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
            ]
        )

    async def _health(self, _: Request) -> Response:
        return Response(status_code=500 if self.ill else 200)

    async def _models(self, request: Request) -> Response:
        if self._locked(request):
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        return JSONResponse({"data": [{"id": "it", "root": "models/it", "max_model_len": self.window}]})

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        is_probe = body["max_tokens"] == 1 and body["logprobs"] == 5
        if self._locked(request):
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        if not is_probe:
            self.bodies.append(body)
            if self.hangs:
                await asyncio.sleep(60)
            if self.status is not None:
                error = {"message": f"status {self.status} it is", "code": self.status}
                return JSONResponse({"error": error}, status_code=self.status, headers={"Retry-After": "7"})
        try:
            embeddings = self._read(body)
        except ValueError as error:
            return JSONResponse({"error": {"message": str(error)}}, status_code=400)
        return StreamingResponse(self._reply(embeddings, body, is_probe), media_type="text/event-stream")

    def _locked(self, request: Request) -> bool:
        return self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}"

    def _read(self, body: dict[str, Any]) -> torch.Tensor:
        backbone = self.base.backbone
        if "prompt_embeds" not in body:
            return backbone.embed(torch.tensor(body["prompt"]))
        if not self.embeds:
            raise ValueError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        file = io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True))
        embeddings: torch.Tensor = torch.load(file, weights_only=True)
        if embeddings.ndim != 2 or embeddings.shape[1] != backbone.embedding_dim:
            raise ValueError(f"`prompt_embeds` hidden_size {embeddings.shape[-1]} does not match")
        return self.factor * embeddings.to(backbone.dtype)

    async def _reply(self, embeddings: torch.Tensor, body: dict[str, Any], is_probe: bool) -> AsyncIterator[str]:
        self.open += not is_probe
        self.most = max(self.most, self.open)
        done = False
        try:
            for number in range(body["max_tokens"]):
                await asyncio.sleep(self.pause)
                if not is_probe and number == self.dies_after:
                    done = True
                    raise DeathError
                if not is_probe and number == self.fails_after:
                    yield _event({"error": {"message": "engine failed", "code": 500}})
                    break
                token, logprobs = self._next(embeddings, body, number)
                embeddings = torch.cat([embeddings, self.base.backbone.embed(torch.tensor([token]))])
                ended = token in body["stop_token_ids"] if "stop_token_ids" in body else False
                finish = "stop" if ended else "length" if number + 1 == body["max_tokens"] else None
                done = finish is not None
                choice = {"index": 0, "text": "?", "logprobs": logprobs, "finish_reason": finish, "token_ids": [token]}
                yield _event({"choices": [choice]})
                if done:
                    break
            done = True
            yield "data: [DONE]\n\n"
        finally:
            self.open -= not is_probe
            self.aborted += not done

    @torch.no_grad()
    def _next(self, embeddings: torch.Tensor, body: dict[str, Any], number: int) -> tuple[int, dict[str, Any] | None]:
        backbone = self.base.backbone
        logits = backbone.head(backbone.hidden(embeddings[None])[0, -1])
        logprobs = logits.log_softmax(0)
        token = int(logits.argmax())
        if body["temperature"]:
            generator = torch.Generator().manual_seed(1000 * (body["seed"] or 0) + number)
            token = int(torch.multinomial((logits / body["temperature"]).softmax(0), 1, generator=generator))
        if body["logprobs"] is None:
            return token, None
        best = dict.fromkeys([token, *logprobs.topk(body["logprobs"]).indices.tolist()])
        top = {f"token_id:{one}": float(logprobs[one]) for one in best}
        return token, {
            "tokens": [f"token_id:{token}"],
            "token_logprobs": [float(logprobs[token])],
            "top_logprobs": [top],
        }


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


@contextmanager
def running(replica: ReplicaServer, port: int = 0) -> Iterator[ReplicaServer]:
    """Serve from another thread until the block ends; open connections are then broken off."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    replica.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(replica.app(), log_config=None, lifespan="off", timeout_graceful_shutdown=0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield replica
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()
