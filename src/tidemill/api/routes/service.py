"""The service itself: what runs, whether it answers, its figures, its OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tidemill.api.access import OPEN, door, needs
from tidemill.api.dependencies import Here, Limit, Who
from tidemill.api.errors import RETRY_SECONDS
from tidemill.domain.access import Action
from tidemill.domain.cost import UsageBy
from tidemill.domain.errors import StoreUnusable
from tidemill.domain.version import __version__
from tidemill.service import overview
from tidemill.service.context import Context
from tidemill.telemetry import metrics
from tidemill.wire.api import Health, Moment, ServiceInfo, UsageList

router = door("", "service")
root = door("", "service")

AWAY: dict[int | str, dict[str, Any]] = {
    200: {"description": "It does.", "model": Health},
    503: {"description": "It does not, or this server is about to end.", "model": Health},
}


@router.get("/service")
@needs(Action.SEE)
def get_service(context: Here, who: Who) -> ServiceInfo:
    """How many jobs stand where, which workers live, and as whom you are known."""
    return overview.info(context, who)


@router.get("/usage")
@needs(Action.SEE)
def get_usage(
    context: Here,
    who: Who,
    by: Annotated[UsageBy, Query(description="What to sum by.")] = "model",
    since: Annotated[Moment | None, Query(description="Only jobs submitted then or later; a time by RFC 3339.")] = None,
    limit: Limit = 100,
) -> UsageList:
    """What the jobs of your tenant used, and what that costs if the service has a rate card, by model or by key."""
    return overview.usage(context, who, by, since=since, limit=limit)


@router.get("/health", response_model=Health, responses=AWAY)
@needs(OPEN)
def get_health(context: Here) -> Response:
    """Whether the service and its store answer. Needs no key."""
    return _health(context)


@router.get("/ready", response_model=Health, responses=AWAY)
@needs(OPEN)
def get_ready(request: Request, context: Here) -> Response:
    """Whether to send requests here: not while the server ends. Needs no key."""
    if request.app.state.draining or request.app.state.pulse.closed:
        return _say(Health(status="unavailable", version=__version__, detail="This server is about to end."))
    return _health(context)


@router.get("/openapi.json")
@needs(Action.SEE)
def get_openapi(request: Request) -> dict[str, Any]:
    """This document."""
    document: dict[str, Any] = request.app.openapi()
    return document


root.add_api_route("/health", get_health, methods=["GET"], include_in_schema=False, name="root_health")
root.add_api_route("/ready", get_ready, methods=["GET"], include_in_schema=False, name="root_ready")


@root.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@needs(Action.SEE_METRICS)
def get_metrics(request: Request, context: Here) -> Response:
    """Figures of the whole service for Prometheus."""
    page, content_type = metrics.render(context, request.app.state.metrics)
    return Response(page, headers={"Content-Type": content_type})


def _health(context: Context) -> Response:
    try:
        context.store.keys.any()
    except StoreUnusable as exc:
        return _say(Health(status="unavailable", version=__version__, detail=exc.message))
    return _say(Health(status="ok", version=__version__))


def _say(health: Health) -> Response:
    good = health.status == "ok"
    headers = (
        {"Cache-Control": "no-store"} if good else {"Cache-Control": "no-store", "Retry-After": str(RETRY_SECONDS)}
    )
    return JSONResponse(health.model_dump(), status_code=200 if good else 503, headers=headers)
