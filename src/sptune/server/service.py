"""What the routes of one server share."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from sptune.errors import AdapterError
from sptune.server.errors import ApiError, no_such_model
from sptune.server.limits import Limits
from sptune.server.metrics import Metrics
from sptune.server.note import Note
from sptune.server.settings import ServerSettings, base_name

if TYPE_CHECKING:
    from sptune.engine.serving import ServingEngine
    from sptune.server.records.store import Records

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """An engine, and how it is served.

    Attributes:
        engine: what replies.
        settings: all options.
        personas: that requests can give by name.
        metrics: for Prometheus.
        limits: what a request may ask for.
        records: where conversations are kept; None: nowhere.
        created: Unix time of the start.
    """

    engine: ServingEngine
    settings: ServerSettings
    personas: Mapping[str, tuple[str, ...]]
    metrics: Metrics
    limits: Limits
    records: Records | None = None
    created: float = field(default_factory=time.time)

    def adapter(self, model: str) -> str | None:
        """The adapter that a model's name stands for; None for the base model's own name."""
        return None if model == self.base else model

    @property
    def base(self) -> str:
        """What requests call the base model."""
        return base_name(self.engine.base)

    def model_error(self, model: str, error: AdapterError) -> ApiError:
        """What a client is told where the engine cannot answer for a model: without paths, which are in the log."""
        if model not in self.engine.adapters.names():
            return no_such_model(model)
        _log.error("adapter.failed", extra={"note": {"model": model, "reason": str(error)}})
        return ApiError(
            503, "model_failed", f"model: {model} cannot be loaded now; the server's log has more", param="model"
        )


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _note(request: Request) -> Note:
    note: Note = request.state.note
    return note


ServiceOf = Annotated[Service, Depends(_service)]
NoteOf = Annotated[Note, Depends(_note)]
