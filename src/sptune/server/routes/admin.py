"""The admin routes: load and unload adapters, delete a user's records. Off without a key of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter

from sptune.errors import AdapterError, UsageError
from sptune.model.hub import local_folder
from sptune.server.errors import ApiError, no_such_model
from sptune.server.routes.documented import ERRORS
from sptune.server.routes.models import adapter_models, model_of
from sptune.server.schemas.answers import Model, ModelDeleted, ModelList, RecordsDeleted
from sptune.server.schemas.requests import AdapterBody
from sptune.server.service import ServiceOf

router = APIRouter(prefix="/admin", tags=["Admin"])


@router.get("/adapters", responses=ERRORS)
async def list_adapters(service: ServiceOf) -> ModelList:
    """All adapters."""
    return ModelList(data=adapter_models(service))


@router.post("/adapters", responses=ERRORS)
async def add_adapter(body: AdapterBody, service: ServiceOf) -> Model:
    """Load an adapter from a folder of the server. Requests for it wait until it is there; a bad one changes nothing."""
    path = _below(service.settings.admin_root, body.path)
    if body.name == service.base:
        raise ApiError(409, "name_taken", f"name: {body.name} is the base model's own; choose another", param="name")
    try:
        return model_of(await service.engine.adapters.add(body.name, path))
    except UsageError as error:
        raise ApiError(409, "name_taken", str(error), param="name") from error
    except AdapterError as error:
        raise ApiError(400, "adapter_refused", str(error), param="path") from error


@router.delete("/adapters/{name}", responses=ERRORS)
async def remove_adapter(name: str, service: ServiceOf) -> ModelDeleted:
    """Serve an adapter no longer; replies that it is giving go on to their end."""
    try:
        await service.engine.adapters.remove(name)
    except AdapterError:
        raise no_such_model(name) from None
    service.metrics.forget(name)
    return ModelDeleted(id=name)


@router.delete("/users/{user:path}", responses=ERRORS)  # an id may hold slashes
async def delete_user(user: str, service: ServiceOf) -> RecordsDeleted:
    """Delete everything that is kept of a user's conversations."""
    if service.records is None:
        raise ApiError(400, "records_off", "this server keeps no records; start it with --record FILE")
    return RecordsDeleted(user=user, deleted=await asyncio.to_thread(service.records.delete_user, user))


def _below(root: Path, path: str) -> Path:
    """The folder, when it lies below `root`, links followed."""
    refused = ApiError(
        403,
        "path_refused",
        "path: not below the folder that this server may load adapters from (admin_root)",
        param="path",
    )
    try:
        root = root.resolve()
        found = local_folder((root / path).resolve()).resolve()  # the folder that is read: of a run, the one within
    except (OSError, ValueError) as error:
        raise refused from error
    if not found.is_relative_to(root):
        raise refused
    return found
