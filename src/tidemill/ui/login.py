"""Coming in and going out: by an API key, or at a login provider."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tidemill.domain.errors import NotAuthenticated, Refused
from tidemill.service import logins
from tidemill.service.provider import LOGIN, LOGIN_BACK, Attempt
from tidemill.ui import session
from tidemill.ui.page import Site
from tidemill.ui.rendering import HEADERS

Show = Callable[[Site, Request, Mapping[str, str]], Response]

ATTEMPT_COOKIE = "tidemill_login"
ATTEMPT_SECONDS = 600


def ask(site: Site, request: Request, exc: NotAuthenticated) -> Response:
    """The login page, at the address that was asked for: it shows itself once the key is there.

    A link on another site opens the first time without the cookie, since that is strict about sites;
    the page then asks for itself once more, from here.
    """
    came_with = session.COOKIE in request.cookies
    failed = came_with or request.url.path.startswith("/login")
    again = request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site"
    place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    inside = request.method == "GET" and not request.url.path.startswith("/login")
    answer = _form(
        site,
        exc if failed else None,
        place if inside else "/",
        again=again and inside,
        status=401,
        at_provider=request.url.path.startswith(LOGIN),
    )
    if came_with and request.method == "GET" and not again:
        # What opens nothing any more would stand in the way of a proxy that vouches for them.
        session.forget(request, answer)
    return answer


def _show(site: Site, request: Request, form: Mapping[str, str]) -> Response:
    return _form(site, None, "/")


def _by_key(site: Site, request: Request, form: Mapping[str, str]) -> Response:
    key, place = form.get("key", "").strip(), form.get("place", "/")
    session.check_origin(request)
    try:
        site.door.authenticate(session.with_key(request, key))
    except NotAuthenticated as exc:
        return _form(site, exc, place, status=401)
    answer = RedirectResponse(session.own_place(place), status_code=303, headers=HEADERS)
    session.remember(answer, key, secure=session.speaks_https(request))
    return answer


def _begin(site: Site, request: Request, form: Mapping[str, str]) -> Response:
    """To the provider; the browser keeps what only it may bring back."""
    with _counted(site, request):
        url, attempt = logins.provider(site.context).begin()
    answer = RedirectResponse(url, status_code=303, headers=HEADERS)
    kept = {**asdict(attempt), "place": session.own_place(request.query_params.get("place", "/"))}
    # Lax, since the provider's page leads the browser back; it opens nothing.
    answer.set_cookie(
        ATTEMPT_COOKIE,
        urlsafe_b64encode(json.dumps(kept).encode()).decode(),
        max_age=ATTEMPT_SECONDS,
        path=LOGIN,
        httponly=True,
        samesite="lax",
        secure=_secure(site),
    )
    return answer


def _come_back(site: Site, request: Request, form: Mapping[str, str]) -> Response:
    """From the provider. The page leads on by itself: a redirect would still count as the provider's."""
    with _counted(site, request):
        kept = _kept(request)
        attempt = Attempt(state=kept["state"], nonce=kept["nonce"], verifier=kept["verifier"])
        token = logins.finish(site.context, attempt, request.query_params)
    answer = site.templates.answer("signed_in.html", place=session.own_place(kept["place"]))
    session.remember(answer, token, secure=_secure(site))
    answer.delete_cookie(ATTEMPT_COOKIE, path=LOGIN, httponly=True, samesite="lax", secure=_secure(site))
    return answer


def _leave(site: Site, request: Request, form: Mapping[str, str]) -> Response:
    session.check_origin(request)
    token = request.cookies.get(session.COOKIE, "")
    ended = logins.log_out(site.context, token)
    site.door.forget()
    if ended and site.context.provider is not None:
        provider = site.context.provider
        answer: Response = site.templates.answer("signed_out.html", provider=provider.name, url=provider.logout_url())
    else:
        answer = RedirectResponse("/", status_code=303, headers=HEADERS)
    session.forget(request, answer)
    return answer


ROUTES: tuple[tuple[str, list[str], Show], ...] = (
    ("/login", ["GET"], _show),
    ("/login", ["POST"], _by_key),
    (LOGIN, ["GET"], _begin),
    (LOGIN_BACK, ["GET"], _come_back),
    ("/logout", ["POST"], _leave),
)


def _form(
    site: Site, error: Refused | None, place: str, *, again: bool = False, at_provider: bool = False, status: int = 200
) -> Response:
    provider = site.context.provider
    return site.templates.answer(
        "login.html",
        status=status,
        error=error,
        again=again,
        at_provider=at_provider,
        place=place,
        provider=None if provider is None else provider.name,
        provider_url=LOGIN,
    )


@contextmanager
def _counted(site: Site, request: Request) -> Iterator[None]:
    """So that nobody makes this service ask the provider all the time."""
    try:
        yield
    except Refused:
        site.door.count_refusal(request)
        raise


def _kept(request: Request) -> dict[str, str]:
    """What `_begin` gave this browser. Raises NotAuthenticated."""
    try:
        kept = json.loads(urlsafe_b64decode(request.cookies.get(ATTEMPT_COOKIE, "").encode()))
        return {name: str(kept[name]) for name in ("state", "nonce", "verifier", "place")}
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise NotAuthenticated(
            "This login was not begun in this browser, or more than ten minutes ago.", remedy="Log in again."
        ) from exc


def _secure(site: Site) -> bool:
    return (site.context.policy.public_url or "").startswith("https://")
