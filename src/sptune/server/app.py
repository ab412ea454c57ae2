"""The server as an ASGI application: the routes, and the layers around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware

from sptune import __version__
from sptune.server.body import BodyLimit
from sptune.server.docs_page import add_docs
from sptune.server.errors import add_error_handlers
from sptune.server.guard import LOCAL_NAMES, Access, Guard
from sptune.server.keys import KeyFile
from sptune.server.limits import Limits
from sptune.server.metrics import Metrics
from sptune.server.page import add_page, page_files
from sptune.server.personas import read_personas
from sptune.server.request_log import RequestLog
from sptune.server.routes import admin, chat, completions, health, models, spt, state
from sptune.server.service import Service

if TYPE_CHECKING:
    from sptune.engine.serving import ServingEngine
    from sptune.server.records.store import Records
    from sptune.server.settings import ServerSettings

_DESCRIPTION = (
    "A frozen language model that talks like someone: OpenAI's protocol, in which `model` names an adapter of selective "
    "prompt tuning and each answer says which soft prompt spoke."
)

# The guard looks at the key, before there is a route; this says so in the OpenAPI document.
_DOCUMENTED_KEY = [Depends(HTTPBearer(auto_error=False))]


def make_app(engine: ServingEngine, settings: ServerSettings, *, records: Records | None = None) -> FastAPI:
    """The application. It neither starts the engine nor stops it.

    Args:
        engine: what replies.
        settings: all options.
        records: where conversations are kept; None: nowhere.

    Raises:
        UsageError: a key file without a key.
        DataError: a file of personas that cannot be read.
    """
    metrics = Metrics(engine.load)
    access = _access(settings)
    app = FastAPI(
        title="sptune",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(RequestLog, metrics=metrics),
            Middleware(Guard, access=access),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes, seconds=settings.body_seconds),
        ],
    )
    personas = read_personas(settings.personas) if settings.personas else {}
    app.state.service = Service(engine, settings, personas, metrics, Limits(settings), records)
    add_error_handlers(app)
    app.include_router(health.router)
    for topic in (chat, completions, models, spt, state):
        app.include_router(topic.router, dependencies=_DOCUMENTED_KEY if settings.api_key_file else [])
    if settings.with_admin:
        app.include_router(admin.router, dependencies=_DOCUMENTED_KEY)
    if settings.page:
        add_page(app)
    add_docs(app)
    return app


def _access(settings: ServerSettings) -> Access:
    """The rules of who may come in."""
    keys = KeyFile(settings.api_key_file, option="api_key_file") if settings.api_key_file else None
    admin_keys = KeyFile(settings.admin_key_file, option="admin_key_file") if settings.admin_key_file else None
    page = page_files() if settings.page else {}
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    hosts = {*map(str.lower, (*LOCAL_NAMES, own, *settings.allowed_hosts))} if settings.is_loopback else None
    return Access(keys, admin_keys, {"/health", *settings.public_routes, *page}, hosts)
