"""The settings of a server: every option of `sptune serve`, with its range, default and meaning."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sptune.config import Section

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
PublicRoute = Literal["/ready", "/metrics", "/version", "/docs", "/openapi.json"]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def adapter_name(path: str) -> str:
    """What an adapter is called that is given without a name: its run's, or that of its folder.

    >>> adapter_name("runs/sailor/adapter"), adapter_name("adapters/baker/")
    ('sailor', 'baker')
    """
    folder = Path(path)
    return folder.parent.name if folder.name == "adapter" and folder.parent.name else folder.resolve().name


def base_name(base: str) -> str:
    """What the base model is called in requests: its own name, of a folder the last part.

    >>> base_name("smollm2-135m"), base_name("owner/name"), base_name("/models/smollm2/")
    ('smollm2-135m', 'owner/name', 'smollm2')
    """
    is_path = base.startswith((".", "/", "~")) or base.count("/") > 1
    return Path(base).expanduser().resolve().name if is_path else base


def _named(value: Any) -> Any:
    """Adapters as a mapping; a list (or a single text) has `NAME=PATH` or `PATH` in it."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
        return value
    named: dict[str, str] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        name, path = (name, path) if equals else (adapter_name(entry), entry)
        if name in named:
            raise ValueError(f"two adapters are called {name!r}; write OTHER={path} to tell them apart")
        named[name] = path
    return named


class ServerSettings(Section):
    """How `sptune serve` serves (docs/serve.md)."""

    adapters: Annotated[dict[str, str], BeforeValidator(_named)] = Field(
        {}, description="adapter folders (RUN/adapter) or hub ids by the name that requests choose them by"
    )
    base: str | None = Field(None, description="base model; null is what the first adapter says")
    engine: str = Field("local", description="local, vllm, or vllm:http://HOST:PORT (separate several with commas)")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="what the base model computes in"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps")
    vllm_api_key_file: Path | None = Field(None, description="file with the key that the replicas of vllm:http ask for")
    replica_seconds: Seconds = Field(
        30.0, description="time in which a replica of vllm:http has to send its next token, else it counts as down"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")

    api_key_file: Path | None = Field(
        None, description="file of keys, one a line; read again when it changes. Without it no key is asked for"
    )
    admin_key_file: Path | None = Field(None, description="file of keys for the admin routes, which are off without it")
    admin_root: Path = Field(Path("."), description="the folder below which the admin routes may load adapters")
    insecure: bool = Field(False, description="listen on a public address although no key is asked for")
    public_routes: tuple[PublicRoute, ...] = Field(
        (), description="further routes that need no key: /ready, /metrics, /version, /docs, /openapi.json"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names that requests may come in for, where no key is set; localhost is always one"
    )

    personas: Path | None = Field(None, description="YAML file of personas: a name and a list of sentences each")
    record: Path | None = Field(None, description="SQLite file that keeps conversations and feedback; null keeps none")
    retention_days: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="days after which a record is deleted; null keeps it"
    )
    page: bool = Field(True, description="serve the chat page at /")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="of the log, which holds no text"
    )

    decoding: Literal["top1", "fused", "gated"] | None = Field(
        None,
        description="who speaks where the request does not say: the chosen prompt, the average of all, or their gated average; null is "
        "as each adapter is meant",
    )
    gate_temperature: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="of the gate softmax(scores / gate_temperature); null is the adapter's own",
    )
    slots: int = Field(
        16, ge=1, le=4096, description="replies that are generated at a time; K prompts that speak together take K"
    )
    queue: int = Field(64, ge=0, le=1_000_000, description="requests that may wait for a slot; beyond it they get 429")
    places: int = Field(
        16_384, ge=64, description="tokens of all replies together, contexts included, that are kept in memory"
    )
    prefill: int = Field(256, ge=1, description="tokens of new contexts that are read between two tokens of the others")
    max_loaded: int = Field(
        1024, ge=1, le=1_000_000, description="adapters kept in memory; beyond it the least recently used one leaves it"
    )
    max_body_bytes: int = Field(1_000_000, ge=1000, description="the largest request body")
    max_messages: int = Field(256, ge=1, description="the most messages of a request")
    max_message_chars: int = Field(
        16_000, ge=1, description="the longest message, or text to be completed, in characters"
    )
    max_persona_sentences: int = Field(64, ge=1, description="the most sentences of a persona that is given as a list")
    max_n: int = Field(8, ge=1, le=1024, description="the most replies to one request")
    max_tokens: int = Field(1024, ge=1, description="the most tokens of a reply that a request may ask for")
    max_stops: int = Field(4, ge=0, description="the most stop texts of a request")
    max_stop_chars: int = Field(64, ge=1, description="the longest stop text, in characters")
    max_logprobs: int = Field(20, ge=0, description="the most alternatives of a token")
    default_max_tokens: int = Field(128, ge=1, description="the most tokens of a reply where the request does not say")
    default_temperature: float = Field(
        1.0, ge=0, le=2, allow_inf_nan=False, description="temperature where the request does not say; 0 is greedy"
    )
    body_seconds: Seconds = Field(30.0, description="time in which a request's body has to arrive")
    first_token_seconds: Seconds = Field(60.0, description="time to the first token, waiting included")
    total_seconds: Seconds = Field(300.0, description="time to the end of a reply")
    drain_seconds: Seconds = Field(30.0, description="time that open requests get when the server is told to stop")

    @model_validator(mode="after")
    def _combinations(self) -> ServerSettings:
        faults = list(_impossible(self))
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def with_admin(self) -> bool:
        """Whether there are admin routes."""
        return self.admin_key_file is not None


def _impossible(settings: ServerSettings) -> Iterator[str]:
    """Combinations that cannot work, or that must not, in words."""
    if not settings.adapters and settings.base is None:
        yield "adapters: none is given; give an adapter folder (`sptune train` writes RUN/adapter), or --base smollm2-135m"
    for name in settings.adapters:
        if not NAME.fullmatch(name):
            yield f"adapters: {name!r} is no name; use letters, digits, dot, dash, underscore and colon, as in sailor=runs/x/adapter"
    if settings.base is not None and (own := base_name(settings.base)) in settings.adapters:
        yield f"adapters: {own!r} is the base model's own name; write OTHER={settings.adapters[own]}"
    if not (settings.is_loopback or settings.api_key_file or settings.insecure):
        yield (
            f"host: {settings.host} can be reached by others and no key is set; give --api-key-file FILE, use 127.0.0.1, "
            "or say --insecure where something in front of the server asks for a key"
        )
    if settings.retention_days is not None and settings.record is None:
        yield "retention_days: nothing is kept without --record; give --record chats.db"
