"""What is said to a replica and what it says: vLLM's `/v1/completions` with `prompt_embeds`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sptune.engine.serving import TokenLogprob, UnavailableError
from sptune.engine.vllm.token_source import TokenNews

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.engine.prepared import Prepared

Decode = Callable[[int], str]

# vLLM takes what is not given here from the model's own generation_config.json.
_PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_AS_TOKENS = {"stream": True, "return_token_ids": True, "return_tokens_as_token_ids": True}
_TOKEN = "token_id:"


def completion_body(prepared: Prepared) -> bytes:
    """The request for a reply, as JSON."""
    decoding = prepared.decoding
    return make_body(
        prompt_embeds=encoded(prepared.embeddings()),
        max_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=None if decoding.seed is None else decoding.seed % 2**63,  # its own range
        stop_token_ids=prepared.ends,
        logprobs=prepared.logprobs,
    )


def make_body(**fields: Any) -> bytes:
    """A request to be answered in token ids, by what `fields` say alone; what ends a reply is in `stop_token_ids`."""
    return json.dumps({**_PLAIN, **_AS_TOKENS, "ignore_eos": True, **fields}).encode()


def encoded(embeddings: Tensor) -> str:
    """Embeddings (T, D) as vLLM reads them: what `torch.save` writes, in base64."""
    import torch

    file = io.BytesIO()
    torch.save(embeddings.detach().cpu().clone(), file)  # a view would be saved with all that it is a view of
    return base64.b64encode(file.getvalue()).decode("ascii")


def read_news(data: str | bytes, *, count: int, decode: Decode) -> TokenNews:
    """What an event of the stream says.

    Args:
        data: of a server-sent event.
        count: the most probable tokens that were asked for; vLLM adds the chosen one.
        decode: the text of a token.

    Raises:
        UnavailableError: the replica failed, or says what cannot be understood.
    """
    try:
        event = json.loads(data)
        if "error" in event:
            raise UnavailableError("the model failed; try again")
        choice = event["choices"][0]
        finish, tokens = choice["finish_reason"], tuple(int(token) for token in choice["token_ids"])
        logprobs = _logprobs(choice["logprobs"], count, decode) if choice.get("logprobs") else ()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UnavailableError("the model's answer cannot be read; try again later") from error
    if finish not in (None, "stop", "length"):
        raise UnavailableError("the model gave the reply up; try again")
    return TokenNews(tokens, logprobs, finish)


def read_error(body: bytes) -> str:
    """The message of an answer that is an error."""
    try:
        return " ".join(str(json.loads(body)["error"]["message"]).split())[:300]
    except (ValueError, KeyError, TypeError):
        return " ".join(body[:300].decode("utf-8", "replace").split())


def _logprobs(given: dict[str, Any], count: int, decode: Decode) -> tuple[TokenLogprob, ...]:
    """The tokens' log-probabilities, with the most probable ones in their places."""

    def one(token: str, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(decode(int(token.removeprefix(_TOKEN))), logprob, top)

    found = []
    for token, logprob, best in zip(given["tokens"], given["token_logprobs"], given["top_logprobs"], strict=True):
        falling = sorted((best or {}).items(), key=lambda pair: -pair[1])
        found.append(one(token, logprob, tuple(one(*pair) for pair in falling[:count])))
    return tuple(found)
