"""The API key of a browser, and requests that another site made it send."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "tidemill_key"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a page of this very service sent the request.

    Browsers say so by Sec-Fetch-Site where the address is trustworthy (https, loopback), else by Origin.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == headers.get("host")


def remember(request: Request, response: Response, key: str) -> None:
    """Let the browser send this key from now on, until it is closed; no script can read it."""
    response.set_cookie(COOKIE, key, httponly=True, samesite="strict", secure=_speaks_https(request), path="/")


def forget(request: Request, response: Response) -> None:
    """Let the browser send no key any more."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_speaks_https(request), path="/")


def _speaks_https(request: Request) -> bool:
    """What the browser spoke, also to a proxy in between: it says so itself with every form it sends."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


class CookieAsKey:
    """Turns the cookie into the header that programs send, so that one rule decides for both.

    A request that changes something is left as it is unless it came from a page of this service.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            key = _key_in(headers.get("cookie", ""))
            trusted = scope["method"] in SAFE_METHODS or is_same_origin(headers)
            if key and trusted and "authorization" not in headers:
                scope = _with_header(scope, key)
        await self._app(scope, receive, send)


def with_key(request: Request, key: str) -> Request:
    """The request as if a program had sent it with this key."""
    return Request(_with_header(request.scope, key))


def _with_header(scope: Scope, key: str) -> Scope:
    kept = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
    sent = f"Bearer {key}".encode("latin-1", "replace")
    return {**scope, "headers": [*kept, (b"authorization", sent)]}


def _key_in(cookies: str) -> str | None:
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None
