"""Errors as RFC 9457 problems. The one map from classes of `domain.errors` to HTTP statuses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tidemill.domain import errors
from tidemill.domain.errors import TidemillError
from tidemill.wire.api import Problem
from tidemill.wire.spec import place_of

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2

STATUS: Mapping[type[TidemillError], int] = MappingProxyType(
    {
        errors.TidemillError: 500,
        errors.Refused: 409,
        errors.InvalidSpec: 422,
        errors.NotFound: 404,
        errors.Expired: 410,
        errors.UnknownFormat: 422,
        errors.MissingExtra: 422,
        errors.NotTrusted: 409,
        errors.SchemaMismatch: 422,
        errors.UnsupportedType: 422,
        errors.OutputExists: 409,
        errors.OutputBusy: 409,
        errors.OutputMismatch: 409,
        errors.UpgradeRefused: 409,
        errors.TooLarge: 413,
        errors.WrongState: 409,
        errors.OffsetMismatch: 409,
        errors.ChecksumMismatch: 460,
        errors.UploadBusy: 423,
        errors.KeyReused: 409,
        errors.SeriesBusy: 409,
        errors.NothingNew: 409,
        errors.AlreadyScored: 409,
        errors.NotAuthenticated: 401,
        errors.NotAllowed: 403,
        errors.TooManyRequests: 429,
        errors.EnvironmentUnusable: 422,
        errors.StoreUnusable: 500,
        errors.StoreUnavailable: 503,
        errors.JobFailed: 500,
        errors.InputChanged: 409,
        errors.InputUnreadable: 422,
        errors.ModelUnusable: 422,
        errors.TooManyRejected: 422,
        errors.TooManyCrashes: 422,
        errors.RuntimeExceeded: 422,
        errors.OutputUnwritable: 500,
        errors.CountsDiffer: 500,
        errors.ChildDied: 422,
        errors.LeaseLost: 409,
        errors.Stopped: 503,
        errors.Damaged: 500,
        errors.ServiceUnreachable: 503,
        errors.StillRunning: 503,
    }
)
"""Every class has a row; a test sees to it."""

_TITLES: Mapping[int, str] = MappingProxyType(
    {413: "Content Too Large", 422: "Unprocessable Content", 460: "Checksum Mismatch"}
)
"""As RFC 9110 names them, and tus; older Pythons know other words."""

_HTTP: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        400: ("bad_request", "Check the request against the OpenAPI document."),
        404: ("not_found", "See the OpenAPI document at /api/v1/openapi.json for the paths there are."),
        405: ("method_not_allowed", "See the header Allow for the methods there are."),
        406: ("not_acceptable", "Ask for application/json."),
        408: ("timeout", "Go on where it broke off: HEAD tells the offset."),
        412: ("tus_version", "Send the header Tus-Resumable: 1.0.0."),
        413: ("too_large", "Send data by PUT /api/v1/uploads and name it in the job's input."),
        415: ("unsupported_media_type", "Send the body as application/json."),
        416: ("range_not_satisfiable", "Ask for a range within the file."),
    }
)
"""(code, remedy) of refusals that come from HTTP itself and from no use case."""


_THINGS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "path.job_id": ("job", "`tidemill jobs list` shows what is there."),
        "path.key_id": ("key", "`tidemill keys list` shows them."),
        "path.webhook_id": ("webhook", "`tidemill webhooks list` shows what is there."),
        "path.delivery_id": ("delivery", "`tidemill webhooks deliveries WEBHOOK` shows what is there."),
        "path.session_id": ("session", "`tidemill sessions list` shows them."),
    }
)
"""Words of a path that name what is there: a word of another form names nothing."""


class WrongMediaType(HTTPException):
    """The body is not of the type that the endpoint takes."""

    def __init__(self, given: str, wanted: str) -> None:
        super().__init__(415, f"The body is {given[:100]!r} and not {wanted}.")
        self.remedy = f"Send it with the header Content-Type: {wanted}."


class BodyTooLarge(HTTPException):
    """The body passed its bound; raised while it is read, so it must be an HTTP error to pass FastAPI."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"The body is larger than {most:,} bytes.")


def status_of(error: TidemillError) -> int:
    """The HTTP status of an error; of a class without a row, its nearest parent's."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(error: TidemillError, *, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that tells of `error`."""
    status = status_of(error)
    return _answer(status, error.message, code=error.code, remedy=error.remedy, headers=headers)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of error answers, for `responses=` of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _title(status), "content": content} for status in statuses}


USUAL = (400, 401, 403, 422, 429, 500, 503)
"""Any route may answer these."""


def install(app: FastAPI, methods: Callable[[str], Collection[str]]) -> None:
    """Every error that leaves the app is a problem; `methods` are those that a path takes."""

    def http(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        allowed = sorted(methods(request.url.path))
        return _http(request, exc, {"Allow": ", ".join(allowed)} if exc.status_code == 405 and allowed else {})

    app.add_exception_handler(TidemillError, _tidemill)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


def _answer(
    status: int,
    detail: str,
    *,
    code: str,
    remedy: str | None,
    faults: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    told = Problem(title=_title(status), status=status, detail=detail, code=code, remedy=remedy, errors=faults or [])
    extra = dict(headers or {})
    if status == 401:
        extra.setdefault("WWW-Authenticate", 'Bearer realm="tidemill"')
    if status in (429, 503):
        extra.setdefault("Retry-After", str(RETRY_SECONDS))
    return Response(told.model_dump_json(), status_code=status, media_type=MEDIA_TYPE, headers=extra)


def _title(status: int) -> str:
    return _TITLES.get(status) or HTTPStatus(status).phrase


def _tidemill(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, TidemillError)
    if status_of(exc) == 500:
        log.error("%s %s: %s", request.method, request.url.path, exc, exc_info=exc)
    return problem(exc)


def _http(request: Request, exc: HTTPException, headers: Mapping[str, str]) -> Response:
    code, remedy = _HTTP.get(exc.status_code, ("refused", None))
    if isinstance(exc, WrongMediaType):
        remedy = exc.remedy
    detail = {
        404: f"There is nothing at {request.url.path}.",
        405: f"{request.url.path} does not take {request.method}.",
    }.get(exc.status_code, str(exc.detail))
    return _answer(exc.status_code, detail, code=code, remedy=remedy, headers={**(exc.headers or {}), **headers})


def _invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    seen: dict[str, str] = {}
    for fault in exc.errors():
        seen.setdefault(place_of(fault["loc"]), fault["msg"].removeprefix("Value error, "))
    for fault in exc.errors():
        where = place_of(fault["loc"])
        if where in _THINGS:
            thing, remedy = _THINGS[where]
            return problem(errors.NotFound(f"There is no {thing} {str(fault['input'])[:100]!r}.", remedy=remedy))
    faults = [{"where": where, "message": message} for where, message in list(seen.items())[:20]]
    listed = "; ".join(f"{fault['where']}: {fault['message']}" for fault in faults[:3])
    return _answer(
        422,
        f"The request is not valid. {listed}.",
        code=errors.InvalidSpec.code,
        remedy="See the OpenAPI document at /api/v1/openapi.json.",
        faults=faults,
    )


def _unexpected(request: Request, exc: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    return _answer(
        500,
        f"The service failed to answer: {type(exc).__name__}.",
        code=errors.TidemillError.code,
        remedy="Its log tells more; report it if it comes again.",
    )
