"""What a form of a page holds."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request

MAX_BYTES = 8192


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a small form; the last of several with one name. One that is too big is empty."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BYTES:
            return {}
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
