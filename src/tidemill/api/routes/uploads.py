"""Files that are sent to the service: PUT one, name it as `upload:ID` in a job's input."""

from __future__ import annotations

import base64
import binascii
import re
from functools import partial
from typing import Annotated, Any

from anyio import CancelScope
from anyio.to_thread import run_sync
from fastapi import Header, Path, Query
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tidemill.api.access import door, needs, pieces
from tidemill.api.dependencies import PREFIX, Here, Limit, Who
from tidemill.api.errors import problems
from tidemill.domain.access import Action
from tidemill.domain.errors import InvalidSpec
from tidemill.service import uploads
from tidemill.wire.api import UploadOut, UploadPage, UploadPreview

router = door("/uploads", "uploads")

PIECE_BYTES = 1 << 20
CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "The upload is whole and durable.",
        "headers": {"Location": {"description": "Where it is found.", "schema": {"type": "string"}}},
    }
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file's bytes, as they are.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_REPR_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):\s*(?=,|$)")

UploadId = Annotated[str, Path(alias="upload", pattern=r"^upload_[0-9a-z]{16}$", description="An upload's id.")]


@router.put("/{upload}", status_code=201, responses={**CREATED, **problems(413, 423)}, openapi_extra=BODY)
@needs(Action.RUN_JOBS)
async def send_upload(
    request: Request,
    response: Response,
    context: Here,
    who: Who,
    name: Annotated[str, Path(alias="upload", min_length=1, max_length=200, description="What the file is called.")],
    repr_digest: Annotated[
        str | None, Header(max_length=1000, description="sha-256=:BASE64: of the bytes, to be checked.")
    ] = None,
    x_checksum_sha256: Annotated[
        str | None, Header(max_length=200, description="SHA-256 of the bytes in hex, to be checked.")
    ] = None,
) -> UploadOut:
    """Send a file as the body. It is durable when this answers, and nothing stays of one that broke off."""
    length = request.headers.get("content-length", "")
    open_upload = partial(
        uploads.Receiving,
        context,
        who,
        name,
        expected_bytes=int(length) if length.isdecimal() else None,
        expected_sha256=_checksum(repr_digest, x_checksum_sha256),
    )
    receiving = await run_sync(open_upload)
    try:
        held = bytearray()
        async for piece in pieces(request, context.policy.max_upload_bytes):
            held += piece
            if len(held) >= PIECE_BYTES:
                await run_sync(receiving.write, bytes(held))
                held.clear()
        await run_sync(receiving.write, bytes(held))
        made = await run_sync(receiving.finish)
    except ClientDisconnect as exc:
        raise HTTPException(400, "The connection broke off before the whole file was there.") from exc
    finally:
        with CancelScope(shield=True):
            await run_sync(receiving.close)
    response.headers["Location"] = f"{PREFIX}/uploads/{made.id}"
    return made


@router.get("", responses=problems())
@needs(Action.SEE)
def list_uploads(
    context: Here,
    who: Who,
    limit: Limit = 100,
    before: Annotated[
        str | None, Query(pattern=r"^upload_[0-9a-z]{16}$", description="`next` of the page before.")
    ] = None,
) -> UploadPage:
    """Files of the caller's tenant, newest first."""
    return uploads.list_uploads(context, who, limit=limit, before=before)


@router.get("/{upload}", responses=problems(404))
@needs(Action.SEE)
def get_upload(context: Here, who: Who, upload_id: UploadId) -> UploadOut:
    """One file that was sent."""
    return uploads.get(context, who, upload_id)


@router.get("/{upload}/preview", responses=problems(404))
@needs(Action.SEE)
def preview_upload(
    context: Here,
    who: Who,
    upload_id: UploadId,
    rows: Annotated[int, Query(ge=1, le=uploads.MAX_ROWS, description="How many at most.")] = 10,
) -> UploadPreview:
    """Format, columns and first rows of a file that was sent."""
    return uploads.preview(context, who, upload_id, rows)


@router.delete("/{upload}", status_code=204, responses=problems(404, 410, 423))
@needs(Action.RUN_JOBS)
def delete_upload(context: Here, who: Who, upload_id: UploadId) -> None:
    """Delete a file that was sent, wholly or in part. A job that still reads it fails."""
    uploads.remove(context, who, upload_id)


def _checksum(repr_digest: str | None, hexadecimal: str | None) -> str | None:
    """The SHA-256 that the sender says, in hex."""
    if hexadecimal is not None:
        if not _SHA256.fullmatch(hexadecimal.strip()):
            raise InvalidSpec("X-Checksum-Sha256 is not 64 hexadecimal digits.", remedy="Send what `sha256sum` prints.")
        return hexadecimal.strip().lower()
    found = _REPR_DIGEST.search(repr_digest or "")
    if found is None:
        return None
    try:
        digest = base64.b64decode(found[1], validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise InvalidSpec("Repr-Digest holds no SHA-256.", remedy="Send sha-256=:BASE64:, or leave it out.")
    return digest.hex()
