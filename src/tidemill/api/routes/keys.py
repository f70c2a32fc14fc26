"""API keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from starlette.requests import Request
from starlette.responses import Response

from tidemill.api.access import door, needs
from tidemill.api.dependencies import Here, Who
from tidemill.api.errors import problems
from tidemill.domain.access import Action
from tidemill.service import keys
from tidemill.wire.api import AddKey, KeyList, KeyOut, NewKey

router = door("/keys", "keys")

KeyId = Annotated[str, Path(pattern=r"^key_[0-9a-z]{16}$", description="A key's id.")]
CREATED: dict[int | str, dict[str, Any]] = {
    201: {"description": "The key. No other answer shows it."},
}


@router.post("", status_code=201, responses={**CREATED, **problems(409)})
@needs(Action.MANAGE_KEYS)
def add_key(request: Request, response: Response, context: Here, who: Who, wanted: AddKey) -> NewKey:
    """Make a key. From the first one on nobody gets in without."""
    key, text = keys.add(context, who, wanted)
    request.app.state.access.forget()
    response.headers["Cache-Control"] = "no-store"
    return NewKey(**keys.describe(key).model_dump(), key=text)


@router.get("")
@needs(Action.MANAGE_KEYS)
def list_keys(context: Here, who: Who) -> KeyList:
    """Keys of the caller's tenant, oldest first, also those that open nothing any more."""
    return KeyList(items=[keys.describe(key) for key in keys.list(context, who)])


@router.post("/{key_id}/revoke", responses=problems(404))
@needs(Action.MANAGE_KEYS)
def revoke_key(request: Request, context: Here, who: Who, key_id: KeyId) -> KeyOut:
    """Close a key for ever; other servers of the same store notice within a few seconds."""
    key = keys.revoke(context, who, key_id)
    request.app.state.access.forget()
    return keys.describe(key)
