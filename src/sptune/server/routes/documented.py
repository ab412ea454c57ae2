"""How the routes' answers are described in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from sptune.server.schemas.answers import ErrorBody

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be answered."},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer now."},
}
_EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
EVENTS: dict[str, Any] = {
    "description": "The answer; with `stream`, server-sent events, each with a chunk in JSON as its data, ended by `[DONE]`.",
    "content": {"text/event-stream": {"schema": _EVENT}},
}
