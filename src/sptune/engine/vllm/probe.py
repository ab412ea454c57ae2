"""What shows that a replica can be driven by the embeddings held here: it says the same to tokens and to their embeddings."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import torch

from sptune.engine.vllm.completion import encoded, make_body
from sptune.errors import ModelError, UsageError

if TYPE_CHECKING:
    from sptune.engine.serving import TokenLogprob
    from sptune.engine.vllm.replica import Replica
    from sptune.model.backbone import Backbone

_TOKENS, _BEST = 16, 5
_TOLERANCE = 0.25  # nats: half-precision numbers differ from run to run


class Probe:
    """The same made-up tokens in two requests, once as ids, once as embeddings.

    A replica of another model, or of a family whose embeddings vLLM treats further (by a factor, say), gives the token
    that is most probable after the ids another probability after the embeddings.

    Args:
        backbone: the embeddings held here.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._base = backbone.base
        ids = torch.arange(_TOKENS) * 37 % (len(backbone.embedding_table) - 11) + 11
        ask = {"max_tokens": 1, "temperature": 0.0, "logprobs": _BEST}
        self._ids = make_body(prompt=ids.tolist(), **ask)
        self._embeddings = make_body(prompt_embeds=encoded(backbone.embed(ids)), **ask)

    async def check(self, replica: Replica, *, model: str, read_seconds: float) -> None:
        """Compare.

        Args:
            replica: that is asked.
            model: what it says it serves.
            read_seconds: time for each answer.

        Raises:
            ModelError: of no use as it was started; names the fix.
            OverloadedError: no room.
            ReplicaError: died, hangs or failed.
        """
        serve = f"start it with `vllm serve {self._base} --enable-prompt-embeds`"
        try:
            given = await _first(replica, self._embeddings, read_seconds)
            wanted = await _first(replica, self._ids, read_seconds)
        except UsageError as error:
            if "--enable-prompt-embeds" in str(error):
                raise ModelError(f"{replica.url} was started without --enable-prompt-embeds; {serve}") from error
            raise ModelError(f"{replica.url} serves {model}: {error}; {serve}") from error
        found = {one.token: one.logprob for one in given.top}.get(wanted.token)
        if found is None or abs(found - wanted.logprob) > _TOLERANCE:
            raise ModelError(
                f"{replica.url} serves {model}, which does not say the same to the embeddings of {self._base} as to its tokens: another "
                f"model ({serve}), or one of a family that vLLM cannot drive by embeddings (use --engine local)"
            )


async def _first(replica: Replica, body: bytes, read_seconds: float) -> TokenLogprob:
    """The first token of a reply."""
    answer = replica.complete(body, decode=str, count=_BEST, read_seconds=read_seconds)  # ids: texts can be equal
    async with aclosing(answer) as told:
        async for news in told:
            if news.logprobs:
                return news.logprobs[0]
    raise ModelError(f"{replica.url} gives no log-probabilities; update its vLLM")
