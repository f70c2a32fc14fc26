"""Registered models: versions, aliases, trust."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from anyio import CancelScope
from anyio.to_thread import run_sync
from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import Response

from tidemill.api.access import door, needs, pieces
from tidemill.api.dependencies import PREFIX, Here, Limit, Who
from tidemill.api.errors import problems
from tidemill.domain.access import Action
from tidemill.domain.model import Environment, ModelVersion
from tidemill.service import models, registration
from tidemill.wire.api import (
    ALIAS,
    NAME,
    AddModelVersion,
    AliasName,
    ModelCheck,
    ModelLimits,
    ModelPage,
    ModelVersionOut,
    MoveAlias,
    Text,
)

router = door("/models", "models")

PIECE_BYTES = 1 << 20

ModelName = Annotated[str, Path(pattern=NAME, description="A model's name.")]
Which = Annotated[str, Path(pattern=NAME, description='A version\'s number, an alias, or "latest".')]
Alias = Annotated[str, Path(pattern=ALIAS, description="A word such as champion; not latest.")]

CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "The version. The bytes that the newest one has already make no new one: that is the answer.",
        "headers": {"Location": {"description": "Where it is found.", "schema": {"type": "string"}}},
    }
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The model file's bytes, as they are.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("")
@needs(Action.SEE)
def list_models(
    context: Here,
    who: Who,
    limit: Limit = 100,
    after: Annotated[str | None, Query(pattern=NAME, description="`next` of the page before.")] = None,
) -> ModelPage:
    """The newest version of each model, by name."""
    return models.list_names(context, who, limit=limit, after=after)


@router.get("/{name}", responses=problems(404))
@needs(Action.SEE)
def list_model_versions(
    context: Here,
    who: Who,
    name: ModelName,
    limit: Limit = 100,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next` of the page before.")] = None,
) -> ModelPage:
    """Versions of a model, newest first."""
    return models.list_versions(context, who, name, limit=limit, before=before)


@router.get("/{name}/versions/{version}", responses=problems(404))
@needs(Action.SEE)
def get_model_version(context: Here, who: Who, name: ModelName, version: Which) -> ModelVersionOut:
    """One version: signature, aliases, digest."""
    return models.describe(models.get(context, who, f"{name}@{version}"))


@router.post("/{name}/versions", status_code=201, responses={**CREATED, **problems(404, 409, 413)})
@needs(Action.ADD_MODELS)
def add_model_version(
    response: Response, context: Here, who: Who, name: ModelName, request: AddModelVersion
) -> ModelVersionOut:
    """Register a version from a path or URL that the service can reach. An environment needs an admin's key."""
    environment = request.environment
    added = registration.add(
        context,
        who,
        name,
        request.source,
        authorization=request.authorization,
        flavor=request.flavor,
        aliases=request.aliases,
        environment=None if environment is None else Environment(**environment.model_dump()),
        description=request.description,
    )
    return _created(response, added)


@router.put(
    "/{name}/versions",
    status_code=201,
    responses={**CREATED, **problems(404, 409, 413)},
    openapi_extra=BODY,
)
@needs(Action.ADD_MODELS)
async def send_model_version(
    request: Request,
    response: Response,
    context: Here,
    who: Who,
    name: ModelName,
    filename: Annotated[str, Query(min_length=1, max_length=255, description="What the file is called.")] = "model",
    flavor: Annotated[Text | None, Query(max_length=100, description="What reads it, if it does not tell.")] = None,
    alias: Annotated[Sequence[AliasName], Query(max_length=20, description="Aliases to point at it.")] = (),
    description: Annotated[Text, Query(max_length=registration.MAX_DESCRIPTION)] = "",
) -> ModelVersionOut:
    """Register a version by sending its file as the body."""
    receiving = await run_sync(registration.Receiving, context, filename)
    try:
        held = bytearray()
        async for piece in pieces(request, context.policy.max_upload_bytes):
            held += piece
            if len(held) >= PIECE_BYTES:
                await run_sync(receiving.write, bytes(held))
                held.clear()
        await run_sync(receiving.write, bytes(held))
        register = partial(receiving.add, who, name, flavor=flavor, aliases=alias, description=description)
        return _created(response, await run_sync(register))
    finally:
        with CancelScope(shield=True):
            await run_sync(receiving.close)


@router.put("/{name}/aliases/{alias}", responses=problems(404))
@needs(Action.ADD_MODELS)
def move_model_alias(context: Here, who: Who, name: ModelName, alias: Alias, request: MoveAlias) -> ModelVersionOut:
    """Point an alias at a version. Jobs that were submitted keep the version they have."""
    return models.describe(models.move_alias(context, who, name, alias, request.version))


@router.delete("/{name}/aliases/{alias}", status_code=204, responses=problems(404))
@needs(Action.ADD_MODELS)
def remove_model_alias(context: Here, who: Who, name: ModelName, alias: Alias) -> None:
    """Forget an alias."""
    models.remove_alias(context, who, name, alias)


@router.post("/{name}/versions/{version}/trust", responses=problems(404, 409))
@needs(Action.TRUST_MODELS)
def trust_model_version(context: Here, who: Who, name: ModelName, version: Which) -> ModelVersionOut:
    """Allow a version to run the code that it carries, and learn its signature."""
    return models.describe(models.trust(context, who, f"{name}@{version}"))


@router.post("/{name}/versions/{version}/check", responses=problems(404, 409))
@needs(Action.ADD_MODELS)
def check_model_version(context: Here, who: Who, name: ModelName, version: Which) -> ModelCheck:
    """Compare the stored bytes with the digest, and load the model."""
    return models.check(context, who, f"{name}@{version}")


@router.put("/{name}/limits", responses=problems(404))
@needs(Action.ADD_MODELS)
def limit_model(context: Here, who: Who, name: ModelName, request: ModelLimits) -> ModelLimits:
    """Say how many jobs of a model may run at once."""
    models.limit_running(context, who, name, request.max_running)
    return request


def _created(response: Response, added: ModelVersion) -> ModelVersionOut:
    response.headers["Location"] = f"{PREFIX}/models/{added.name}/versions/{added.version}"
    return models.describe(added)
