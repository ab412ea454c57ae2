"""How the server is: ready, how busy, and of which version."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from sptune import __version__
from sptune.engine.serving import UnavailableError
from sptune.server.errors import RETRY_SECONDS, ApiError
from sptune.server.routes.documented import ERRORS
from sptune.server.schemas.answers import Health, Version
from sptune.server.service import ServiceOf

router = APIRouter(tags=["State"])


@router.get("/ready", responses=ERRORS)
async def ready(service: ServiceOf) -> Health:
    """Whether it can take requests; 503 while it starts, stops, or has no place in its queue."""
    try:
        load = service.engine.load()
    except UnavailableError as error:
        raise ApiError(503, "not_ready", str(error), retry_after=RETRY_SECONDS) from error
    if load.slots == 0:
        raise ApiError(503, "not_ready", "the model cannot be reached", retry_after=RETRY_SECONDS)
    if load.running >= load.slots and load.waiting >= load.queue_limit:
        raise ApiError(503, "not_ready", "all slots are busy and the queue is full", retry_after=RETRY_SECONDS)
    return Health(status="ok")


@router.get("/metrics", responses=ERRORS, response_class=Response)
async def metrics(service: ServiceOf) -> Response:
    """Figures for Prometheus."""
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/version", responses=ERRORS)
async def version(service: ServiceOf) -> Version:
    """What runs here."""
    return Version(
        version=__version__,
        engine=service.settings.engine.partition(":")[0],
        base=service.base,
        records=service.records is not None,
        retention_days=service.settings.retention_days,
    )
