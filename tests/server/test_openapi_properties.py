"""The server against its own OpenAPI document: whatever is sent, the answer is one that the document describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from live_server import LiveServer, live_server
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from sptune.server.records.store import Records

KEY = {"Authorization": "Bearer the-key"}
OPERATIONS = [
    ("get", "/health"),
    ("get", "/ready"),
    ("get", "/metrics"),
    ("get", "/version"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
    ("get", "/v1/spt/personas"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
    ("post", "/v1/spt/select"),
    ("post", "/v1/feedback"),
    ("get", "/admin/adapters"),
    ("post", "/admin/adapters"),
    ("delete", "/admin/adapters/{name}"),
    ("delete", "/admin/users/{user}"),
]
load_all_checks()


@pytest.fixture(scope="module")
def server(
    make_engine: Callable, make_settings: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server with everything on: keys, admin routes, personas, records."""
    folder: Path = tmp_path_factory.mktemp("everything")
    (folder / "keys.txt").write_text("the-key\n", encoding="utf-8")
    (folder / "personas.yaml").write_text("sailor: [I sail.]\n", encoding="utf-8")
    records = Records.open(folder / "chats.db")
    options = dict.fromkeys(("api_key_file", "admin_key_file"), folder / "keys.txt")
    options |= {"personas": folder / "personas.yaml", "admin_root": folder, "default_max_tokens": 2}
    with live_server(make_engine(slots=8, queue_limit=64), make_settings(**options), records=records) as server:
        yield server
    records.close()


@pytest.fixture(scope="module")
def document(server: LiveServer) -> Any:
    schema = server.http.get("/openapi.json", headers=KEY).json()
    found = schemathesis.openapi.from_dict(schema)
    found.config.update(base_url=server.url)
    return found


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_as_documented(document: Any, method: str, path: str, mode: GenerationMode):
    operation = document[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        return  # there is nothing to do wrong

    @given(operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            tame(case.body)
        # the limits of a server and the names of its models are no part of its schema: what fits it can still be refused
        case.call_and_validate(headers=KEY, excluded_checks=[positive_data_acceptance])

    check()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
    ],
)
def test_a_stream_is_as_documented(document: Any, path: str, text: dict[str, Any]):
    case = document[path]["post"].Case(
        body={"model": "sailor", "stream": True, "max_tokens": 2, **text}, media_type="application/json"
    )
    answer = case.call_and_validate(headers=KEY)
    assert answer.headers["content-type"][0].startswith("text/event-stream")


def test_every_operation_is_tested(document: Any):
    found = {(method, path) for path, methods in document.raw_schema["paths"].items() for method in methods}
    assert found == set(OPERATIONS)


def tame(body: dict[str, Any]) -> None:
    """Names a model, else hardly anything would get past that, and asks for few tokens."""
    if "model" in body:
        body["model"] = "sailor"
    for tokens in ("max_tokens", "max_completion_tokens"):
        if body.get(tokens):
            body[tokens] = 2
