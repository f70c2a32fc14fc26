"""The site: who may see which page, and what it answers when something is wrong."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
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
from tidemill.ui import login, session
from tidemill.ui.form import read_form
from tidemill.ui.page import Door, Page, Pulse, Site, Visit
from tidemill.ui.pages import PAGES
from tidemill.ui.rendering import STATIC

Endpoint = Callable[[Request], Awaitable[Response]]

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


def mount(app: FastAPI, context: Context, door: Door, pulse: Pulse) -> list[BaseRoute]:
    """Add the pages, their static files and the login to the service's app; the routes that came.

    `door` is the API's own rule. A browser's cookie reaches it as the header that programs send:
    the middleware added here stands before all that were added earlier. Without a key or login a page answers
    401 with the login form; only the static files are open to everybody.
    """
    site = Site(context=context, door=door, pulse=pulse)
    routes: list[BaseRoute] = [Route(page.path, _endpoint(site, page), methods=[page.method]) for page in PAGES]
    for path, methods, show in login.ROUTES:
        routes.append(Route(path, _open(site, show), methods=methods))
    routes.append(Mount("/static", StaticFiles(directory=STATIC), name="static"))
    app.router.routes.extend(routes)
    app.add_middleware(session.CookieAsKey)
    return routes


def _open(site: Site, show: login.Show) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        form = await read_form(request) if request.method == "POST" else {}
        return await run_in_threadpool(_try, site, request, lambda: show(site, request, form))

    return endpoint


def _endpoint(site: Site, page: Page) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        form = await read_form(request) if page.method == "POST" else {}
        return await run_in_threadpool(_try, site, request, lambda: _visit(site, page, request, form))

    return endpoint


def _visit(site: Site, page: Page, request: Request, form: Mapping[str, str]) -> Response:
    who = site.door.authenticate(request)
    if page.method == "POST":
        session.check_origin(request)
    if not who.may(page.needs):
        raise NotAllowed(
            f"The role {who.role} may not do that.",
            remedy="Ask an administrator for a role, or a key with one, that may.",
        )
    return page.show(Visit(site=site, request=request, who=who, form=form))


def _try(site: Site, request: Request, show: Callable[[], Response]) -> Response:
    """The page, or one that says why not."""
    try:
        return show()
    except NotAuthenticated as exc:
        return login.ask(site, request, exc)
    except TidemillError as exc:
        return _say(site, exc)


def _say(site: Site, exc: TidemillError) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(exc, kind)), 500)
    if status == 500:
        log.error("a page failed: %s", exc)
    answer = site.templates.answer("error.html", status=status, error=exc)
    if status in (429, 503):
        answer.headers["Retry-After"] = RETRY_SECONDS
    return answer
