"""`GET /health`: the one route that never needs a key."""

from __future__ import annotations

from fastapi import APIRouter

from sptune.server.schemas.answers import Health

router = APIRouter(tags=["State"])


@router.get("/health")
async def health() -> Health:
    """Whether the server lives. Needs no key."""
    return Health(status="ok")
