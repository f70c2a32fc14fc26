"""The service's app: routes, gates, errors, pages."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.routing import compile_path

from tidemill import ui
from tidemill.api import errors, openapi
from tidemill.api.access import Access, Bounds, Gate, check_routes
from tidemill.api.dependencies import PREFIX
from tidemill.api.pulse import Pulse
from tidemill.api.routes import (
    audit,
    events,
    jobs,
    keys,
    models,
    results,
    schedules,
    series,
    service,
    sessions,
    tus,
    uploads,
    webhooks,
)
from tidemill.domain.version import __version__
from tidemill.service.context import Context
from tidemill.telemetry.metrics import Metrics

ROUTERS = (
    jobs.router,
    events.router,
    results.router,
    schedules.router,
    series.router,
    uploads.router,
    tus.router,
    models.router,
    keys.router,
    webhooks.router,
    sessions.router,
    audit.router,
    service.router,
)
"""Resources under /api/v1; a new file of routes adds its line here."""

ROOT_ROUTERS = (service.root,)
"""What is not versioned: probes and figures."""


def create_app(
    context: Context,
    *,
    max_body_bytes: int = 1 << 20,
    metrics: Metrics | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The app for one wired service; `clock` measures the rates of requests, in seconds.

    Raises TypeError if a route does not say who may call it.
    """
    app = described_app()
    app.state.context = context
    app.state.metrics = metrics
    app.state.draining = False
    app.state.pulse = Pulse(context.store)
    bounds = Bounds(max_body_bytes=max_body_bytes, requests_per_minute=context.policy.requests_per_minute)
    app.state.access = Access(context, bounds, clock=clock)
    app.add_middleware(tus.TusHeaders)
    pages = ui.mount(app, context, app.state.access, app.state.pulse)
    check_routes(app, others=pages)
    return app


def described_app() -> FastAPI:
    """The API without a service behind it: enough to describe it."""
    app = FastAPI(
        title="Tidemill",
        version=__version__,
        summary="Scores big data sets with trained models, asynchronously.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    errors.install(app, _methods())
    openapi.install(app)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    for router in ROOT_ROUTERS:
        app.include_router(router)
    return app


def _methods() -> Callable[[str], set[str]]:
    """What every path takes: routes of one path may lie in several files."""
    table = [
        (compile_path(prefix + route.path)[0], route.methods)
        for prefix, routers in ((PREFIX, ROUTERS), ("", ROOT_ROUTERS))
        for router in routers
        for route in router.routes
        if isinstance(route, Gate)
    ]
    return lambda path: {method for pattern, methods in table if pattern.match(path) for method in methods or ()}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        app.state.pulse.close()
