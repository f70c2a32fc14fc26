"""The site: who may see which page, and what it answers when something is wrong."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tidemill.domain.errors import (
    InvalidSpec,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Refused,
    StoreUnavailable,
    TidemillError,
    TooLarge,
    TooManyRequests,
    WrongState,
)
from tidemill.service.context import Context
from tidemill.ui import session
from tidemill.ui.page import Authenticate, Page, Pulse, Site, Visit
from tidemill.ui.pages import PAGES
from tidemill.ui.rendering import HEADERS, STATIC

Endpoint = Callable[[Request], Awaitable[Response]]

MAX_FORM_BYTES = 8192
RETRY_SECONDS = "5"

STATUS: dict[type[TidemillError], int] = {
    NotAuthenticated: 401,
    NotAllowed: 403,
    NotFound: 404,
    WrongState: 409,
    TooLarge: 413,
    InvalidSpec: 422,
    TooManyRequests: 429,
    StoreUnavailable: 503,
    Refused: 400,
}
"""The first class that an error is of decides; none: 500."""

log = logging.getLogger(__name__)


def mount(app: FastAPI, context: Context, authenticate: Authenticate, pulse: Pulse) -> list[BaseRoute]:
    """Add the pages, their static files and the login to the service's app; the routes that came.

    `authenticate` is the API's own rule. A browser's cookie reaches it as the header that programs send:
    the middleware added here stands before all that were added earlier. Without a key a page answers 401
    with the login form; only the static files are open to everybody.
    """
    site = Site(context=context, authenticate=authenticate, pulse=pulse)
    routes: list[BaseRoute] = [Route(page.path, _endpoint(site, page), methods=[page.method]) for page in PAGES]
    routes.append(Route("/login", _login(site), methods=["GET", "POST"]))
    routes.append(Route("/logout", _logout, methods=["POST"]))
    routes.append(Mount("/static", StaticFiles(directory=STATIC), name="static"))
    app.router.routes.extend(routes)
    app.add_middleware(session.CookieAsKey)
    return routes


def _endpoint(site: Site, page: Page) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        form = await _form(request) if page.method == "POST" else {}
        return await run_in_threadpool(_answer, site, page, request, form)

    return endpoint


def _answer(site: Site, page: Page, request: Request, form: Mapping[str, str]) -> Response:
    """The page, or one that says why not."""
    try:
        who = site.authenticate(request)
        if page.method == "POST":
            _check_origin(request)
        if not who.may(page.needs):
            raise NotAllowed(
                f"A key with the role {who.role} may not do that.", remedy="Ask an administrator for a key that may."
            )
        return page.show(Visit(site=site, request=request, who=who, form=form))
    except NotAuthenticated as exc:
        return _ask_for_key(site, request, exc)
    except TidemillError as exc:
        return _say(site, exc)


def _check_origin(request: Request) -> None:
    if not session.is_same_origin(request.headers):
        raise NotAllowed(
            "This request did not come from a page of this service.",
            remedy="Open the page here and try again; programs use the API. A proxy in between must pass on Host.",
        )


def _ask_for_key(site: Site, request: Request, exc: NotAuthenticated) -> Response:
    """The login page, at the address that was asked for: it shows itself once the key is there.

    A link on another site opens the first time without the cookie, since that is strict about sites;
    the page then asks for itself once more, from here.
    """
    again = request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site"
    place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return site.templates.answer(
        "login.html", status=401, error=exc if session.COOKIE in request.cookies else None,
        again=again, place=place if request.method == "GET" else "/",
    )  # fmt: skip


def _say(site: Site, exc: TidemillError) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(exc, kind)), 500)
    if status == 500:
        log.error("a page failed: %s", exc)
    answer = site.templates.answer("error.html", status=status, error=exc)
    if status in (429, 503):
        answer.headers["Retry-After"] = RETRY_SECONDS
    return answer


def _login(site: Site) -> Endpoint:
    async def login(request: Request) -> Response:
        if request.method != "POST":
            return site.templates.answer("login.html", error=None, again=False, place="/")
        form = await _form(request)
        return await run_in_threadpool(_log_in, site, request, form)

    return login


def _log_in(site: Site, request: Request, form: Mapping[str, str]) -> Response:
    key, place = form.get("key", "").strip(), form.get("place", "/")
    try:
        _check_origin(request)
        site.authenticate(session.with_key(request, key))
    except NotAuthenticated as exc:
        return site.templates.answer("login.html", status=401, error=exc, again=False, place=place)
    except TidemillError as exc:
        return _say(site, exc)
    # A place such as //evil.example would lead away.
    local = place.startswith("/") and not place.startswith(("//", "/\\"))
    answer = RedirectResponse(place if local else "/", status_code=303, headers=HEADERS)
    session.remember(request, answer, key)
    return answer


async def _logout(request: Request) -> Response:
    answer = RedirectResponse("/", status_code=303, headers=HEADERS)
    if session.is_same_origin(request.headers):
        session.forget(request, answer)
    return answer


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form; the last of several with one name. One that is too big is empty."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM_BYTES:
            return {}
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
