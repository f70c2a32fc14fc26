"""The key or login of a browser, and requests that another site made it send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tidemill.domain.errors import NotAllowed

COOKIE = "tidemill_session"
"""An API key, or the token of a login."""
_OWN = re.compile(r"/(?!/)[^\\\x00-\x20\x7f]{0,2000}")
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


def check_origin(request: Request) -> None:
    """Raise NotAllowed for what no page of this service sent."""
    if not is_same_origin(request.headers):
        raise NotAllowed(
            "This request did not come from a page of this service.",
            remedy="Open the page here and try again; programs use the API. A proxy in between must pass on Host.",
        )


def remember(response: Response, key: str, *, secure: bool) -> None:
    """Let the browser send this from now on, until it is closed; no script can read it. `secure`: only by https."""
    response.set_cookie(COOKIE, key, httponly=True, samesite="strict", secure=secure, path="/")


def forget(request: Request, response: Response) -> None:
    """Let the browser send no key any more."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=speaks_https(request), path="/")


def speaks_https(request: Request) -> bool:
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


def own_place(place: str) -> str:
    """The place if it is an address within this site, else its first page: //evil.example would lead away."""
    return place if _OWN.fullmatch(place) else "/"


def _key_in(cookies: str) -> str | None:
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None
