"""`sptune serve`: an OpenAI-compatible server for adapters on one base model."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

from sptune import __version__
from sptune.errors import UsageError
from sptune.extras import EXTRAS, how_to_get
from sptune.server.settings import ServerSettings, base_name
from sptune.server.sources import ADAPTERS, PREFIX, read_settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from sptune.engine.serving import AdapterInfo, ServingEngine
    from sptune.server.records.store import Records

EPILOG = f"""Examples:

sptune serve runs/quickstart/adapter

sptune serve sailor=runs/sailor/adapter baker=runs/baker/adapter --personas personas.yaml --record chats.db

sptune serve runs/quickstart/adapter --decoding fused

sptune serve runs/quickstart/adapter --host 0.0.0.0 --api-key-file keys.txt

sptune serve --config serve.yaml --port 9000

{PREFIX}PORT=9000 sptune serve --base smollm2-135m

Every option is also a key of the --config file, with _ for -, and a variable such as {PREFIX}MAX_TOKENS.
The command line comes before the environment, the environment before the file.
"""

_ADAPTERS = "Adapter folders (RUN/adapter) or hub ids, as PATH or NAME=PATH; `model` in a request is the NAME."
_CONFIG = f"YAML file of settings; also {PREFIX}CONFIG."


def _serve(*, config: Path | None = None, **options: Any) -> None:
    """Serve adapters over HTTP, with OpenAI's protocol and a chat page. See docs/serve.md.

    Without --api-key-file, only this machine can connect. Ctrl-C or SIGTERM lets open requests end, and stops.
    """
    _need_packages()
    from sptune.server.logs import start_logging
    from sptune.server.run import listen, serve, url_of

    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    settings = read_settings(given, config=config)
    start_logging(settings.log_level)
    listener = listen(settings)
    with listener:
        engine = make_engine(settings)
        records = _open_records(settings)

        def greet() -> None:
            typer.echo(greeting(engine, settings, url_of(listener, settings)))

        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(serve(engine, settings, listener=listener, records=records, started=greet))
        finally:
            if records is not None:
                records.close()


def _need_packages() -> None:
    """The server's packages are an extra.

    Raises:
        UsageError: they are not all there.
    """
    packages, _ = EXTRAS["server"]
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UsageError(f"serve: needs packages that are not installed ({', '.join(missing)}); {how_to_get('server')}")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, where it is installed: half of what a streamed token costs is the event loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def make_engine(settings: ServerSettings) -> ServingEngine:
    """The engine that the settings name, not started yet; its adapters are added once it is.

    Raises:
        UsageError: no such engine.
        ModelError: the base model cannot be loaded.
        AdapterError: the first adapter, which names the base model, cannot be read.
    """
    kind, colon, urls = settings.engine.partition(":")
    if kind == "local" and not colon:
        return _local_engine(settings)
    if kind == "vllm":
        _use_one_thread()
        return _gateway(settings, urls) if colon else _vllm_engine(settings)
    raise UsageError(f"--engine: {settings.engine!r} is not one of local, vllm and vllm:http://HOST:PORT")


def _local_engine(settings: ServerSettings) -> ServingEngine:
    """transformers in this process."""
    from sptune.engine.batching import BatchingEngine
    from sptune.model.load import load_base

    name, revision = base_of(settings)
    return BatchingEngine(
        load_base(name, revision=revision, dtype=settings.dtype, device=settings.device),
        slots=settings.slots,
        queue_limit=settings.queue,
        places=settings.places,
        prefill=settings.prefill,
        adapter_limit=settings.max_loaded,
    )


def _use_one_thread() -> None:
    """Choosing prompts is little work: more threads would only wait, on processors that a vLLM on this machine needs."""
    import torch

    torch.set_num_threads(1)


def _vllm_engine(settings: ServerSettings) -> ServingEngine:
    """vLLM in this process. The embeddings are given to it in float32: it rounds them to what it computes in."""
    from sptune.engine.vllm.embeddings_base import load_embeddings
    from sptune.engine.vllm.engine import VllmEngine
    from sptune.engine.vllm.in_process import InProcessSource

    _refuse_set(settings, "device", "prefill", "decoding", "gate_temperature")
    name, revision = base_of(settings)
    source = InProcessSource(
        name, revision=revision, dtype=settings.dtype, slots=settings.slots, places=settings.places
    )
    base = load_embeddings(name, revision=revision, dtype="float32")
    return VllmEngine(base, source, queue_limit=settings.queue, adapter_limit=settings.max_loaded)


def _gateway(settings: ServerSettings, urls: str) -> ServingEngine:
    """vLLM servers elsewhere; here are the embedding table and the adapters."""
    from sptune.engine.vllm.embeddings_base import load_embeddings
    from sptune.engine.vllm.engine import VllmEngine
    from sptune.engine.vllm.replicas import Replicas, parse_urls

    _refuse_set(settings, "device", "places", "prefill", "decoding", "gate_temperature")
    addresses, key = parse_urls(urls), _replica_key(settings)
    name, revision = base_of(settings)
    base = load_embeddings(name, revision=revision, dtype=settings.dtype)
    source = Replicas(addresses, base, slots=settings.slots, key=key, read_seconds=settings.replica_seconds)
    return VllmEngine(base, source, queue_limit=settings.queue, adapter_limit=settings.max_loaded)


def _refuse_set(settings: ServerSettings, *names: str) -> None:
    """Refuse options that mean nothing to the engine that is chosen."""
    for name in names:
        if name in settings.model_fields_set:
            raise UsageError(f"--{name.replace('_', '-')}: has no effect with --engine {settings.engine}; leave it out")


def _replica_key(settings: ServerSettings) -> str | None:
    """What the replicas of a gateway ask for: the first line of the file."""
    path = settings.vllm_api_key_file
    if path is None:
        return None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--vllm-api-key-file: {path} cannot be read ({error}); give a file that holds the key"
        ) from error
    if not key.isascii() or not key.isprintable() or not key:
        raise UsageError(f"--vllm-api-key-file: {path} does not hold one key; write it on a single line")
    return key


def base_of(settings: ServerSettings) -> tuple[str, str | None]:
    """The base model and its revision: as set, else as the first adapter says.

    Raises:
        AdapterError: the first adapter cannot be read.
    """
    from sptune.adapter import load_adapter
    from sptune.model.hub import local_folder

    if settings.base is not None:
        return settings.base, None
    base = load_adapter(local_folder(next(iter(settings.adapters.values())))).config.base
    return base.id, base.revision


def greeting(engine: ServingEngine, settings: ServerSettings, url: str) -> str:
    """What is said once the server answers: where it is, what it serves, and who may use it."""
    adapters = [engine.adapters.describe(name) for name in engine.adapters.names()]
    lines = [f"sptune {__version__} serves {base_name(engine.base)} ({settings.engine} engine)"]
    lines += [f"page      {url}/"] if settings.page else []
    lines += [f"API       {url}/v1  (fields: {url}/docs{_closed(settings)})"]
    lines += [
        f"adapter   {a.name}: {a.num_prompts} prompts of {a.prompt_length} virtual tokens{_speaks(a, settings)}"
        for a in adapters
    ]
    lines += [] if adapters else ["adapter   none, the bare model"]
    if settings.api_key_file:
        lines.append(f"key       one of {settings.api_key_file}, as Authorization: Bearer KEY")
    elif settings.is_loopback:
        lines.append("key       none: only this machine can connect")
    else:
        lines.append("key       none (--insecure): whoever can connect can use it")
    lines += [f"records   {settings.record}"] if settings.record else []
    return "\n".join([*lines, "Ctrl-C stops."])


def _closed(settings: ServerSettings) -> str:
    """What keeps a browser, which sends no key, from reading `/docs`."""
    is_open = settings.api_key_file is None or "/docs" in settings.public_routes
    return "" if is_open else ", with a key; --public-routes /docs opens it"


def _speaks(adapter: AdapterInfo, settings: ServerSettings) -> str:
    """Who speaks for an adapter, where it is not the chosen prompt."""
    kind = settings.decoding or adapter.decoding
    if kind == "top1":
        return ""
    return f", {kind}" if settings.engine == "local" else f", meant for {kind}, but with vLLM the chosen prompt speaks"


def _open_records(settings: ServerSettings) -> Records | None:
    """The database of `--record`."""
    from sptune.server.records.store import Records

    if settings.record is None:
        return None
    return Records.open(settings.record, retention_days=settings.retention_days)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """The option of a setting. Its range is checked with those of the environment and the file."""
    if name == "adapters":
        kind: Any = Annotated[list[str] | None, typer.Argument(metavar=ADAPTERS, help=_ADAPTERS)]
    else:
        text = (field.description or "").replace("null", "nothing")
        default = "" if field.default in (None, ()) else f" [{field.default}]"
        flag = "--" + name.replace("_", "-")
        names = (f"{flag}/--no-{flag[2:]}",) if field.annotation is bool else (flag,)
        kind = Annotated[_kind(field.annotation), typer.Option(*names, help=f"{text}.{default}")]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _kind(annotation: Any) -> Any:
    """What the command line reads for a setting's type; nothing where the option is not given."""
    return list[str] | None if get_origin(annotation) is tuple else annotation | None


def _command() -> Callable[..., None]:
    """`_serve` with an option for every setting: they are declared once, in `ServerSettings`."""

    def serve(**options: Any) -> None:
        _serve(**options)

    file = Annotated[Path | None, typer.Option(metavar="FILE", help=_CONFIG)]
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=file)
    settings = [_parameter(name, field) for name, field in ServerSettings.model_fields.items()]
    serve.__doc__ = _serve.__doc__
    serve.__signature__ = inspect.Signature([settings[0], config, *settings[1:]])  # type: ignore[attr-defined]
    serve.epilog = EPILOG  # type: ignore[attr-defined]
    return serve


serve = _command()
