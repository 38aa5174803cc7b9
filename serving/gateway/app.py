"""The application: its parts, its paths and the door in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from leanrec.config import RunSettings
from serving.gateway import events
from serving.gateway.faults import explain_faults
from serving.gateway.gateway import Gateway
from serving.gateway.guard import Guard
from serving.gateway.openapi import DescribedApp
from serving.gateway.page_routes import page_routes
from serving.gateway.routes import catalogue_routes, health_routes, model_routes
from serving.gateway.users import Store


def create_app(settings: RunSettings, store: Callable[[], Store] | None = None) -> FastAPI:
    """The gateway of a run as an ASGI application; its parts are in `app.state.gateway`.

    Nothing is opened before the application starts. `store` opens the user rows, by default the run's
    online store.
    """
    gateway = Gateway(settings, store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await gateway.start()
            yield
        finally:
            await gateway.stop()

    app = DescribedApp(
        title="LeanRec gateway",
        version="1",
        description="A user id in, recommendations with titles out. Every call under /v1 needs X-API-Key.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.gateway = gateway
    explain_faults(app)
    app.include_router(model_routes(gateway))
    app.include_router(catalogue_routes(gateway))
    app.include_router(events.router(gateway))
    app.include_router(health_routes(gateway))
    app.router.routes.extend(page_routes())
    app.add_middleware(Guard, gateway=gateway)
    return app
