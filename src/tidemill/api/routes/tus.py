"""Uploads that go on after a break: tus 1.0.0 with creation, creation-with-upload, termination, checksum, expiration.

Headers to use cases and back; what an upload is and how it survives is in `service.resumable`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from email.utils import format_datetime
from functools import partial
from typing import Annotated, Any

from anyio import CancelScope, move_on_after
from anyio.to_thread import run_sync
from fastapi import Depends, Header, Path, Query
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.api.access import door, needs
from tidemill.api.dependencies import PREFIX, Here, Who
from tidemill.api.errors import WrongMediaType, problems
from tidemill.domain.access import Action, Principal
from tidemill.domain.errors import InvalidSpec
from tidemill.service import resumable
from tidemill.service.appending import ALGORITHMS, Appending, Checksum
from tidemill.service.context import Context
from tidemill.service.unfinished import Progress
from tidemill.wire.api import UnfinishedList

router = door("/tus", "uploads")

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,checksum,expiration"
MEDIA_TYPE = "application/offset+octet-stream"
PIECE_BYTES = 1 << 20
LOOK_SECONDS = 0.25
"""How often a request without bytes asks whether another one wants to go on with the upload."""
SILENT_SECONDS = 120.0
"""A connection that brings nothing for so long is dead; whoever sends goes on with a new one."""
MAX_LENGTH = 2**63 - 1

_FILENAMES = ("filename", "name")
"""Keys of Upload-Metadata that clients use for it."""
_NAMELESS = "upload"


class TusHeaders:
    """Every answer of these routes says the version of the protocol, refusals too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/tus"):
            await self.app(scope, receive, send)
            return

        async def versioned(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"tus-resumable", VERSION.encode())]
            await send(message)

        await self.app(scope, receive, versioned)


def _speaks_tus(
    tus_resumable: Annotated[
        str | None, Header(description="Version of the protocol.", json_schema_extra={"enum": [VERSION]})
    ] = None,
) -> None:
    if tus_resumable != VERSION:
        given = "not said" if tus_resumable is None else repr(tus_resumable[:100])
        raise HTTPException(412, f"The version of tus is {given}; this is {VERSION}.", headers={"Tus-Version": VERSION})


def _texts(**described: str) -> dict[str, Any]:
    headers = {name.replace("_", "-"): {"description": text} for name, text in described.items()}
    return {name: {**each, "schema": {"type": "string"}} for name, each in headers.items()}


_VERSIONED = _texts(Tus_Resumable="Version of the protocol.")
_OFFSET = _texts(Upload_Offset="Bytes that are there.", Upload_Expires="When it can no longer go on, if nothing comes.")
_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "Bytes from the offset on.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}
UNUSUAL = problems(404, 408, 409, 410, 412, 413, 415, 423, 460)

SPEAKS = [Depends(_speaks_tus)]
UploadId = Annotated[str, Path(alias="upload", pattern=r"^upload_[0-9a-z]{16}$", description="An upload's id.")]
UploadOffset = Annotated[int, Header(ge=0, le=MAX_LENGTH, description="Where the bytes go on; HEAD tells it.")]
UploadChecksum = Annotated[
    str | None,
    Header(max_length=200, description=f"Of this request's bytes: one of {', '.join(ALGORITHMS)}, then base64."),
]


@router.options(
    "",
    status_code=204,
    responses={204: {"description": "What this server can do.", "headers": _texts(
        Tus_Version="Versions of the protocol.", Tus_Extension="Extensions of it.",
        Tus_Checksum_Algorithm="Of Upload-Checksum.", Tus_Max_Size="Bytes of the largest upload.",
    )}},
)  # fmt: skip
@needs(Action.RUN_JOBS)
def get_tus_options(context: Here) -> Response:
    """What this server can do, in the words of tus."""
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        "Tus-Max-Size": str(context.policy.max_upload_bytes),
    }
    return Response(status_code=204, headers=headers)


@router.get("", responses=problems())
@needs(Action.SEE)
def list_unfinished_uploads(
    context: Here, who: Who, limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 100
) -> UnfinishedList:
    """Uploads of the caller's tenant whose bytes are not all there yet, newest first."""
    return UnfinishedList(items=resumable.list_unfinished(context, who, limit=limit))


@router.post(
    "",
    status_code=201,
    response_class=Response,
    dependencies=SPEAKS,
    openapi_extra=_BODY,
    responses={
        201: {"description": "It is there.", "headers": {**_VERSIONED, **_OFFSET, **_texts(
            Location="Where the bytes are sent; its last part is the upload's id.")}},
        **UNUSUAL,
    },
)  # fmt: skip
@needs(Action.RUN_JOBS)
async def create_unfinished_upload(
    request: Request,
    context: Here,
    who: Who,
    upload_length: Annotated[int | None, Header(ge=0, le=MAX_LENGTH, description="Bytes of the whole file.")] = None,
    upload_defer_length: Annotated[
        str | None, Header(max_length=10, description="Is refused: say Upload-Length.")
    ] = None,
    upload_metadata: Annotated[
        str, Header(max_length=4000, description="Pairs of a key and a base64 value; filename is the upload's name.")
    ] = "",
    upload_checksum: UploadChecksum = None,
) -> Response:
    """Begin an upload of so many bytes; its first bytes may come as the body.

    With the last byte it is an upload as PUT makes it: name it as `upload:ID` in a job's input.
    """
    if upload_length is None:
        deferred = "Upload-Defer-Length is not taken here." if upload_defer_length else "Upload-Length is missing."
        raise InvalidSpec(deferred, remedy="Send the length of the whole file as Upload-Length.")
    name = _metadata(upload_metadata)
    checksum = _checksum(upload_checksum)
    has_body = _has_body(request)
    if has_body:
        _check_media_type(request)
    made = await run_sync(partial(resumable.create, context, who, name, upload_length, metadata=upload_metadata))
    if has_body:
        made = await _receive(request, partial(Appending, context, who, made.id, offset=0, checksum=checksum))
    return Response(status_code=201, headers={"Location": f"{PREFIX}/tus/{made.id}", **_told(made)})


@router.head(
    "/{upload}",
    response_class=Response,
    dependencies=SPEAKS,
    responses={
        200: {"description": "How far it is.", "headers": {**_VERSIONED, **_OFFSET, **_texts(
            Upload_Length="Bytes of the whole file.", Upload_Metadata="As it was sent at the beginning.")}},
        **UNUSUAL,
    },
)  # fmt: skip
@needs(Action.RUN_JOBS)
def get_upload_offset(context: Here, who: Who, upload_id: UploadId) -> Response:
    """How far an upload is, for whoever goes on with it: a request that still sends is made to stop first."""
    seen = resumable.look(context, who, upload_id)
    headers = {"Upload-Length": str(seen.length), "Cache-Control": "no-store"}
    if seen.metadata:
        headers["Upload-Metadata"] = seen.metadata
    return Response(headers={**headers, **_told(seen)})


_WRITTEN: dict[int | str, dict[str, Any]] = {
    204: {"description": "The bytes are there, and durable.", "headers": {**_VERSIONED, **_OFFSET}},
    **UNUSUAL,
}


@router.patch("/{upload}", status_code=204, dependencies=SPEAKS, openapi_extra=_BODY, responses=_WRITTEN)
@needs(Action.RUN_JOBS)
async def append_to_upload(
    request: Request,
    context: Here,
    who: Who,
    upload_id: UploadId,
    upload_offset: UploadOffset,
    upload_checksum: UploadChecksum = None,
) -> Response:
    """Send bytes from the offset on. What came before a break is kept, but of a wrong checksum nothing."""
    return await _append(request, context, who, upload_id, upload_offset, upload_checksum)


@router.post("/{upload}", status_code=204, dependencies=SPEAKS, openapi_extra=_BODY, responses=_WRITTEN)
@needs(Action.RUN_JOBS)
async def append_to_upload_by_post(
    request: Request,
    context: Here,
    who: Who,
    upload_id: UploadId,
    upload_offset: UploadOffset,
    x_http_method_override: Annotated[str, Header(pattern="^PATCH$", description="What is meant: PATCH.")],
    upload_checksum: UploadChecksum = None,
) -> Response:
    """PATCH, for clients behind something that lets only GET and POST pass."""
    return await _append(request, context, who, upload_id, upload_offset, upload_checksum)


@router.delete("/{upload}", status_code=204, dependencies=SPEAKS, responses=UNUSUAL)
@needs(Action.RUN_JOBS)
def delete_unfinished_upload(context: Here, who: Who, upload_id: UploadId) -> None:
    """Give up an upload that is not whole yet."""
    resumable.remove(context, who, upload_id)


async def _append(
    request: Request, context: Context, who: Principal, upload_id: str, offset: int, checksum: str | None
) -> Response:
    opened = partial(Appending, context, who, upload_id, offset=offset, checksum=_checksum(checksum))
    _check_media_type(request)
    return Response(status_code=204, headers=_told(await _receive(request, opened)))


async def _receive(request: Request, opened: partial[Appending]) -> Progress:
    """The body, into the upload."""
    appending = await run_sync(opened)
    try:
        await _pump(request, appending)
        return await run_sync(appending.finish)
    except ClientDisconnect as exc:
        raise HTTPException(400, "The connection broke off before the whole body was there.") from exc
    finally:
        with CancelScope(shield=True):
            await run_sync(appending.close)


async def _pump(request: Request, appending: Appending) -> None:
    held = bytearray()
    silent_seconds = 0.0
    while True:
        message: Message | None = None
        with move_on_after(LOOK_SECONDS):
            message = await request.receive()
        if message is None:
            silent_seconds += LOOK_SECONDS
            if silent_seconds >= SILENT_SECONDS:
                raise HTTPException(408, f"No byte came for {SILENT_SECONDS:g} seconds.")
        else:
            silent_seconds = 0.0
            held += message.get("body", b"")
        gone = message is not None and message["type"] == "http.disconnect"
        ended = message is not None and not message.get("more_body", False)
        if message is None or gone or ended or len(held) >= PIECE_BYTES:
            await run_sync(appending.write, bytes(held))
            held.clear()
        if gone:
            raise ClientDisconnect
        if ended:
            return


def _told(seen: Progress) -> dict[str, str]:
    headers = {"Upload-Offset": str(seen.offset)}
    if seen.expires_at is not None:
        headers["Upload-Expires"] = _http_date(seen.expires_at)
    return headers


def _http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def _check_media_type(request: Request) -> None:
    given = request.headers.get("content-type", "unknown/unknown")
    if given.partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise WrongMediaType(given, MEDIA_TYPE)


def _metadata(text: str) -> str:
    """The file's name. Raises InvalidSpec for what is no list of keys and base64 values."""
    values: dict[str, bytes] = {}
    for pair in text.split(",") if text.strip() else ():
        key, _, value = pair.strip().partition(" ")
        try:
            decoded = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            decoded = None
        if not key or decoded is None or key in values:
            raise InvalidSpec(
                f"Upload-Metadata cannot be read at {pair.strip()[:100]!r}.",
                remedy="Write each pair as a key, a space and the value in base64, with commas between pairs.",
            )
        values[key] = decoded
    return _filename(values)


def _filename(values: Mapping[str, bytes]) -> str:
    given = next((values[key] for key in _FILENAMES if values.get(key)), _NAMELESS.encode())
    try:
        return given.decode()
    except UnicodeDecodeError as exc:
        raise InvalidSpec("The filename in Upload-Metadata is not UTF-8.", remedy="Send its UTF-8 in base64.") from exc


def _checksum(text: str | None) -> Checksum | None:
    if text is None:
        return None
    algorithm, _, value = text.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise HTTPException(400, f"Upload-Checksum by {algorithm!r} is not known; known: {', '.join(ALGORITHMS)}.")
    try:
        return Checksum(algorithm=algorithm, digest=base64.b64decode(value.strip(), validate=True))
    except (binascii.Error, ValueError) as exc:
        raise HTTPException(400, "Upload-Checksum has no digest in base64.") from exc
