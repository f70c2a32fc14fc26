"""The OpenAPI document: FastAPI's, made to say everything that can happen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from tidemill.api.errors import problems
from tidemill.wire.api import JobEventOut, JobProgressOut, Problem

DESCRIPTION = """\
Scores big data sets with trained models, asynchronously: submit a job, come back for its result.

Send an API key as `Authorization: Bearer KEY`. Every error is an `application/problem+json` (RFC 9457) with
a stable `code` and, where there is one, a `remedy`. Times are UTC, sizes bytes, durations seconds.
"""
_OPEN_PATHS = ("/api/v1/health", "/api/v1/ready")
_METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
_BESIDE = (Problem, JobEventOut, JobProgressOut)
"""Types that no route names but its description."""

Document = dict[str, Any]


def install(app: FastAPI) -> None:
    """Let `app.openapi()` make it, once."""
    made: list[Document] = []

    def openapi() -> Document:
        if not made:
            made.append(_document(app))
        return made[0]

    app.openapi = openapi  # type: ignore[method-assign]  # As FastAPI's documentation says.


def _document(app: FastAPI) -> Document:
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=DESCRIPTION, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for kind in _BESIDE:
        made = kind.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        schemas.update(made.pop("$defs", {}))
        schemas[kind.__name__] = made
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key: tm_..."}
    }
    document["security"] = [{"key": []}]
    for path, operation in _operations(document):
        _complete(operation)
        if path in _OPEN_PATHS:
            operation["security"] = []
    return document


def _operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, item[method]


def _complete(operation: Document) -> None:
    responses = operation["responses"]
    if "application/json" in operation.get("requestBody", {}).get("content", ()):
        for status, told in problems(413, 415).items():
            responses.setdefault(str(status), told)
    for status in ("429", "503"):
        responses[status].setdefault("headers", {})["Retry-After"] = {
            "description": "Seconds to wait.",
            "schema": {"type": "integer"},
        }
    responses["401"].setdefault("headers", {})["WWW-Authenticate"] = {"schema": {"type": "string"}}
    operation["responses"] = dict(sorted(responses.items()))
    for parameter in operation.get("parameters", []):
        _without_null(parameter["schema"])
        # Left out it is refused, but in the words of its protocol and not as a fault of the request.
        parameter["required"] = parameter["required"] or parameter["name"] == "tus-resumable"


def _without_null(schema: Document) -> None:
    """A parameter that may be left out is not a parameter whose text may be "null"."""
    others = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(others) == 1:
        del schema["anyOf"]
        schema.update(others[0])
