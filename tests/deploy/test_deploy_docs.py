"""What docs/deploy.md and the files of deploy/ name is there: metrics, options, routes, files; and their times fit the server's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import uvicorn
from manifests import DEPLOY, ROOT, read_objects

from sptune.cli.main import COMMANDS
from sptune.cli.serve import serve
from sptune.engine.batching import BatchingEngine
from sptune.engine.serving import Load
from sptune.errors import EXIT_CODES, AdapterError, DataError, ModelError, RecipeError, UsageError
from sptune.model.load import LoadedBase
from sptune.server.app import make_app
from sptune.server.metrics import Metrics
from sptune.server.settings import ServerSettings
from sptune.server.sources import PREFIX, read_settings

DOCS = ROOT / "docs" / "deploy.md"
ONE = DEPLOY / "one-machine"
TEXT = DOCS.read_text(encoding="utf-8")
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
PROMETHEUS = {"job", "instance", "le"}  # labels that Prometheus adds


def registry() -> Metrics:
    return Metrics(lambda: Load(running=0, waiting=0, slots=1, queue_limit=1))


def series() -> set[str]:
    """Names as Prometheus stores them."""
    return {metric.name + ending for metric in registry().registry.collect() for ending in ENDINGS[metric.type]}


def labels() -> set[str]:
    """All labels of the server's metrics."""
    return {label for metric in vars(registry()).values() for label in getattr(metric, "_labelnames", ())}


def said(name: str, text: str) -> list[str]:
    """The values that a configuration file gives an option of one word."""
    return re.findall(rf"^\s*{name}[ =]([^;#\n]*)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("file", [DOCS, *sorted((DEPLOY / "prometheus").iterdir())], ids=lambda file: file.name)
def test_every_metric_is_one_of_the_servers(file: Path):
    names = set(re.findall(r"\bsptune_[a-z_]+", file.read_text(encoding="utf-8")))
    whole = {metric.name for metric in registry().registry.collect() if metric.type == "histogram"}
    assert names <= (series() | whole if file == DOCS else series())
    assert names or file.name == "scrape.yaml"


def test_alerts_ask_for_labels_and_codes_that_exist():
    [alerts] = read_objects(DEPLOY / "prometheus" / "alerts.yaml")
    rules = alerts["groups"][0]["rules"]
    expressions = " ".join(rule["expr"] for rule in rules)
    matched = set(re.findall(r"[{,]\s*(\w+)=", expressions))
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expressions) for label in group.split(",")}
    assert matched | grouped <= labels() | PROMETHEUS
    codes = re.findall(r'code="(\w+)"', expressions)
    assert codes == ["queue_full"]
    assert f"`{codes[0]}`" in (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    assert {rule["alert"] for rule in rules} == set(re.findall(r"`(Sptune[A-Za-z]+)`", TEXT))


def commands(text: str) -> list[str]:
    """The lines of code blocks, continued ones in one."""
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_every_option_of_sptune_serve_exists():
    options = {flag for one in typer.main.get_command(_app()).params for flag in one.opts}
    lines = [line for line in commands(TEXT) if "sptune serve " in line or "docker run" in line]
    lines += said("ExecStart", (ONE / "sptune.service").read_text(encoding="utf-8"))
    assert len(lines) == 3
    for line in lines:
        used = re.findall(r"--[a-z-]+", re.split(r"sptune serve |sptune:0\.1\.0 ", line)[1])
        assert used
        assert set(used) <= options, line
    ours = {name.replace("_", "-") for name in ServerSettings.model_fields}
    prose = set(re.findall(r"`--([a-z-]+)", re.sub(r"`vllm[^`]*`", "", TEXT)))
    assert prose - ours == {"max-num-seqs", "tensor-parallel-size", "shutdown-timeout", "api-key"}  # vLLM's


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command()(serve)
    return app


def test_every_variable_is_a_setting():
    files = [DOCS, ROOT / "Dockerfile", *(file for file in DEPLOY.rglob("*") if file.is_file())]
    names = {name for file in files for name in re.findall(rf"{PREFIX}([A-Z_]+)=", file.read_text(encoding="utf-8"))}
    assert "HOST" in names
    assert {name.lower() for name in names} <= ServerSettings.model_fields.keys() | {"config"}


def test_every_route_and_command_exists(tiny_base: LoadedBase, tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text("key\n")
    settings = ServerSettings.model_validate({"base": "tiny", "api_key_file": keys, "admin_key_file": keys})
    paths = {*make_app(BatchingEngine(tiny_base), settings).openapi()["paths"], "/admin/"}
    named = set(re.findall(r"`(?:GET |POST )?(/(?:v1|admin|health|ready|metrics|version)[a-z/]*)`", TEXT))
    assert {"/health", "/ready", "/metrics", "/v1/feedback", "/admin/"} <= named <= paths
    assert set(re.findall(r"`sptune ([a-z]+)", TEXT)) <= COMMANDS.keys()


def test_every_file_and_section_exists():
    for path in set(re.findall(r"\bdeploy/[\w./-]+\w", TEXT)):
        assert (ROOT / path).exists(), path
    for name in set(re.findall(r"`((?:local|vllm)/[\w-]+\.yaml)`", TEXT)):
        assert (DEPLOY / "kubernetes" / name).is_file(), name
    headings = {
        re.sub(r"[^\w-]", "", line.lower().replace(" ", "-"))
        for line in re.findall(r"^#+ (.*)", TEXT, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, section = target.partition("#")
        assert (DOCS.parent / file).exists() if file else section in headings, target


def test_the_settings_of_one_machine_are_accepted_and_fit_the_unit():
    settings = read_settings({}, config=ONE / "serve.yaml", environment={})
    unit = (ONE / "sptune.service").read_text(encoding="utf-8")
    assert settings.is_loopback
    assert float(said("TimeoutStopSec", unit)[0]) >= settings.drain_seconds + 10
    mistakes = [UsageError, RecipeError, DataError, ModelError, AdapterError]
    assert said("RestartPreventExitStatus", unit) == [" ".join(str(EXIT_CODES[kind]) for kind in mistakes)]
    state = Path("/var/lib") / said("StateDirectory", unit)[0]
    assert settings.record is not None
    assert all(Path(path).is_relative_to(state) for path in (settings.record, *settings.adapters.values()))


def test_the_proxies_wait_as_long_as_the_server_and_take_as_much():
    settings = read_settings({}, config=ONE / "serve.yaml", environment={})
    closing = uvicorn.Config(_nothing).timeout_keep_alive
    nginx = (ONE / "nginx.conf").read_text(encoding="utf-8")
    assert said("server", nginx)[0] == f"{settings.host}:{settings.port}"
    assert said("proxy_buffering", nginx) == ["off"]
    assert int(said("proxy_read_timeout", nginx)[0].removesuffix("s")) > settings.total_seconds
    assert int(said("keepalive_timeout", nginx)[0].removesuffix("s")) < closing
    assert int(said("client_max_body_size", nginx)[0]) == settings.max_body_bytes
    caddy = (ONE / "Caddyfile").read_text(encoding="utf-8")
    assert f"reverse_proxy {settings.host}:{settings.port}" in caddy
    assert int(said("response_header_timeout", caddy)[0].removesuffix("s")) > settings.total_seconds
    assert int(said("keepalive", caddy)[0].removesuffix("s")) < closing
    assert int(said("max_size", caddy)[0].removesuffix("MB")) * 1_000_000 == settings.max_body_bytes


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application for uvicorn's defaults."""
