"""`GET /v1/models`: the base model and the adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from sptune.errors import AdapterError
from sptune.server.errors import no_such_model
from sptune.server.routes.documented import ERRORS
from sptune.server.schemas.answers import Model, ModelList, SptModel
from sptune.server.service import Service, ServiceOf
from sptune.server.settings import base_name

if TYPE_CHECKING:
    from sptune.engine.serving import AdapterInfo

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", responses=ERRORS)
async def models(service: ServiceOf) -> ModelList:
    """The base model (no soft prompts) and all adapters."""
    return ModelList(data=[_base(service), *adapter_models(service)])


@router.get("/v1/models/{model:path}", responses=ERRORS)
async def model(model: str, service: ServiceOf) -> Model:
    """One of the models."""
    if service.adapter(model) is None:
        return _base(service)
    try:
        return model_of(service.engine.adapters.describe(model))
    except AdapterError:
        raise no_such_model(model) from None


def adapter_models(service: Service) -> list[Model]:
    """The adapters, in the order they were added."""
    adapters = service.engine.adapters
    return [model_of(adapters.describe(name)) for name in adapters.names()]


def model_of(info: AdapterInfo) -> Model:
    """An adapter as OpenAI describes a model."""
    return Model(
        id=info.name,
        created=int(info.created),
        spt=SptModel(
            base=base_name(info.base),
            num_prompts=info.num_prompts,
            prompt_length=info.prompt_length,
            max_length=info.max_length,
            template=info.template,
            retriever=info.retriever,
            reading=info.reading,
            decoding=info.decoding,
            stops=list(info.stops),
            loaded=info.loaded,
        ),
    )


def _base(service: Service) -> Model:
    spt = SptModel(base=service.base, num_prompts=0, prompt_length=0, max_length=service.engine.window)
    return Model(id=service.base, created=int(service.created), spt=spt)
