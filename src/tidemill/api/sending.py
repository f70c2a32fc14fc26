"""Files as answers: by ranges if asked, in blocks, so that memory stays flat however big they are."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tidemill.domain.errors import NotFound

BLOCK_BYTES = 1 << 20

_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*", re.IGNORECASE)


def file_answer(
    request: Request, path: Path, *, name: str, etag: str, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The file, or the range of it that the request asks for; 304 if the caller has it already.

    `etag` is a strong one: these very bytes. Of several ranges all is sent, as RFC 9110 allows. Raises
    NotFound, and HTTPException 416 for a range behind the end. The file stays readable until the answer
    ends, whoever removes it meanwhile.
    """
    try:
        file = path.open("rb", buffering=0)
    except OSError as exc:
        raise NotFound(f"{name} is not there any more.", remedy="Ask for it again.") from exc
    size = os.fstat(file.fileno()).st_size
    told = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(name)}",
        "ETag": etag,
        "X-Content-Type-Options": "nosniff",
        **(headers or {}),
    }
    if _has_it(request, etag):
        return Response(status_code=304, headers=told)
    asked = _range(request, etag, size)
    start, stop = asked or (0, size)
    status = 200 if asked is None else 206
    told["Content-Length"] = str(stop - start)
    if asked is not None:
        told["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=told, media_type=media_type)
    return StreamingResponse(_blocks(file, start, stop), status_code=status, headers=told, media_type=media_type)


def _has_it(request: Request, etag: str) -> bool:
    asked = request.headers.get("if-none-match")
    return asked is not None and (asked.strip() == "*" or etag in [each.strip() for each in asked.split(",")])


def _range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """[start, stop) of the file, or None for all of it: no range, several, or one of another version."""
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    condition = request.headers.get("if-range")
    if found is None or (condition is not None and condition.strip() != etag):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < start:
        return None
    if start >= size or (not first and int(last) == 0):
        raise HTTPException(416, f"The file has {size:,} bytes.", headers={"Content-Range": f"bytes */{size}"})
    return start, stop


async def _blocks(file: BinaryIO, start: int, stop: int) -> AsyncIterator[bytes]:
    with file:
        await run_sync(file.seek, start)
        while start < stop:
            block = await run_sync(file.read, min(BLOCK_BYTES, stop - start))
            if not block:
                # Cut off by somebody: the connection must end without the bytes that were promised.
                raise OSError(f"{file.name} became shorter while it was sent")
            start += len(block)
            yield block
