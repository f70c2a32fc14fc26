"""Who may call what: the one place that lets a request in, or not.

Every endpoint declares what it needs by `@needs(...)`; a route of one that does not cannot be made, and
`check_routes` refuses an app with a route that did not come through here. Before an endpoint runs, its
`Gate` authenticates, counts, asks `Principal.may`, and reads the body within its bounds.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message as MimeMessage
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Message

from tidemill.api.credentials import Credential, Known, Remembered, text_of
from tidemill.api.errors import USUAL, BodyTooLarge, WrongMediaType, problems
from tidemill.api.proxies import person_of
from tidemill.domain.access import Action, Principal
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotAuthenticated, TooLarge, TooManyRequests
from tidemill.domain.login import Person
from tidemill.service import keys, logins
from tidemill.service.context import Context
from tidemill.service.tokens import read_token

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

MAX_JSON_DEPTH = 64
REMEMBER_SECONDS = 3.0
"""So long a revoked key, or a login that was ended, may still open; a store that is asked for every request would be
busy with that."""

_MAX_REMEMBERED = 4096
_BURST_SECONDS = 10.0
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DECLARED = "__tidemill_needs__"
_ANY_QUERY = "__tidemill_any_query__"


class _Open:
    """Nothing is needed: health and readiness."""


OPEN: Final = _Open()
Need = Action | _Open


def needs(what: Need, *, any_query: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Declare what a caller must be allowed to do; stands right under the router's decorator.

    `any_query`: the query may hold words that are no parameters of the endpoint; else they are refused.
    """

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _DECLARED, what)
        setattr(endpoint, _ANY_QUERY, any_query)
        return endpoint

    return declare


def need_of(endpoint: Callable[..., Any]) -> Need:
    """What `needs` declared. Raises TypeError if it did not."""
    declared = getattr(endpoint, _DECLARED, None)
    if not isinstance(declared, Action | _Open):
        raise TypeError(f"{endpoint.__module__}.{endpoint.__qualname__} does not say who may call it: use @needs(...)")
    return declared


class Gate(APIRoute):
    """A route that lets in whom its endpoint's declaration allows."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **words: Any) -> None:
        self.need = need_of(endpoint)
        super().__init__(path, endpoint, **words)
        self.queries = None if getattr(endpoint, _ANY_QUERY) else _query_names(self.dependant)

    def get_route_handler(self) -> Handler:
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            access: Access = request.app.state.access
            if isinstance(self.need, Action):
                request.state.who = await access.admit(request, self.need)
            if self.queries is not None:
                _check_query(request, self.queries)
            if self.body_field is not None:
                request = await access.with_checked_json(request)
            return await answer(request)

        return handler


def door(prefix: str, tag: str) -> APIRouter:
    """A router whose routes are gates."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=Gate, responses=problems(*USUAL))


def check_routes(app: FastAPI, *, others: Sequence[BaseRoute]) -> None:
    """Of the app as it will be served: raises TypeError for a route that is no gate and none of `others`."""
    for route in _every_route(app.routes):
        if not isinstance(route, Gate) and not any(route is other for other in others):
            raise TypeError(f"{getattr(route, 'path', route)!r} is open to everybody: make it by `door` and @needs")


def _every_route(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        # FastAPI keeps an included router as one route that knows those in it.
        included = getattr(route, "effective_route_contexts", None)
        if included is None:
            yield route
        else:
            yield from (context.original_route for context in included())


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a request may not pass."""

    max_body_bytes: int
    requests_per_minute: int
    """Of one key, unless the key says otherwise, and of refused requests from one address."""


class Access:
    """Authenticates, counts and bounds requests. One for each app; thread-safe."""

    def __init__(self, context: Context, bounds: Bounds, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context, self.bounds, self._clock = context, bounds, clock
        self._logins = context.policy.logins
        self._known = Remembered(clock, REMEMBER_SECONDS)
        hours = 0.0 if self._logins is None else self._logins.session_hours
        self._by_proxy = Remembered(clock, hours * 3600)
        self._rate = RateLimit(clock)
        self._closed = self._logins is not None
        """Whether everybody has to show who they are."""
        self._asked_at = float("-inf")

    def authenticate(self, request: Request) -> Principal:
        """Who sends this request; may ask the store, so call it in a thread.

        Raises NotAuthenticated, NotAllowed (sent by another site's page, or no rule names the person),
        TooManyRequests.
        """
        credential = self._credential(request)
        known = self._known.find(credential)
        return self._count(known) if known is not None else self._ask(request, credential)

    async def admit(self, request: Request, action: Action) -> Principal:
        """Who sends it, if they may do that. Raises as `authenticate`, and NotAllowed."""
        credential = self._credential(request)
        known = self._known.find(credential)
        if known is not None:
            who = self._count(known)
        elif credential is None and self._keys_unlikely():
            who = self._local(request)
        else:
            who = await run_sync(self._ask, request, credential)
        if not who.may(action):
            raise NotAllowed(
                f"The role {who.role} may not do this ({action}).",
                remedy="Ask an administrator for a role, or a key with one, that may.",
            )
        return who

    def forget(self) -> None:
        """Ask the store again for every key and login: one was just made or ended here."""
        self._known.clear()
        self._asked_at = float("-inf")

    def count_refusal(self, request: Request) -> None:
        """Of an address. Raises TooManyRequests if there were too many."""
        address = request.client.host if request.client else "?"
        self._rate.take(f"address {address}", self.bounds.requests_per_minute, "refused requests from here")

    async def with_checked_json(self, request: Request) -> Request:
        """The same request with its body in hand: JSON, within bounds, not too deep."""
        body = b"".join([piece async for piece in pieces(request, self.bounds.max_body_bytes)])
        if body:
            _check_content_type(request)
            check_json(body)

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        return Request(request.scope, replay)

    def _credential(self, request: Request) -> Credential:
        """What programs send goes before what a proxy says."""
        try:
            text = text_of(request)
            person = person_of(request, self._logins) if text is None else None
        except NotAuthenticated:
            self.count_refusal(request)
            raise
        if person is not None:
            _check_site(request)
        return person if text is None else text

    def _ask(self, request: Request, credential: Credential) -> Principal:
        try:
            if credential is None:
                return self._without_key(request)
            known = self._look_up(credential)
        except (NotAuthenticated, NotAllowed):
            self.count_refusal(request)
            raise
        self._known.remember(credential, known)
        return self._count(known)

    def _look_up(self, credential: str | Person) -> Known:
        if isinstance(credential, Person):
            known = Known(who=logins.admit(self._context, credential))
            if self._by_proxy.find(credential) is None:
                logins.record_by_proxy(self._context, credential, known.who)
                self._by_proxy.remember(credential, known)
            return known
        if read_token(credential).id.startswith(logins.SESSION):
            return Known(who=logins.check(self._context, credential))
        key = keys.check(self._context, credential)
        return Known(who=keys.principal(key), requests_per_minute=key.requests_per_minute)

    def _without_key(self, request: Request) -> Principal:
        if not self._closed:
            self._closed = self._context.store.keys.any()
            self._asked_at = self._clock()
        if self._closed:
            raise NotAuthenticated("This needs an API key.", remedy=keys.MADE_BY)
        return self._local(request)

    def _keys_unlikely(self) -> bool:
        return not self._closed and self._clock() - self._asked_at < REMEMBER_SECONDS

    def _local(self, request: Request) -> Principal:
        if not is_local(request):
            raise NotAuthenticated(
                "Without API keys this service answers only programs on its own machine.", remedy=keys.MADE_BY
            )
        _check_site(request)
        return Principal(name=keys.LOCAL)

    def _count(self, known: Known) -> Principal:
        rate = known.requests_per_minute or self.bounds.requests_per_minute
        self._rate.take(known.who.owner, rate, "requests with this API key or login")
        return known.who


class RateLimit:
    """Token buckets by name: so many a minute, ten seconds' worth of them at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens left, and when that was."""

    def take(self, name: str, per_minute: int, what: str) -> None:
        """Take a token. Raises TooManyRequests if there is none."""
        size = max(1.0, per_minute * _BURST_SECONDS / 60)
        with self._lock:
            now = self._clock()
            left, at = self._buckets.pop(name, (size, now))
            left = min(size, left + (now - at) * per_minute / 60)
            self._buckets[name] = (left - 1 if left >= 1 else left, now)
            if len(self._buckets) > _MAX_REMEMBERED:
                self._buckets.popitem(last=False)
        if left < 1:
            raise TooManyRequests(
                f"More than {per_minute:,} {what} a minute.",
                remedy="Send fewer: wait for a job with GET /jobs/{id}?wait=60 or its event stream, do not poll it.",
            )


async def pieces(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises BodyTooLarge (413) as soon as it is known to be larger."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise BodyTooLarge(most)
    seen = 0
    async for piece in request.stream():
        seen += len(piece)
        if seen > most:
            raise BodyTooLarge(most)
        yield piece


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_ESCAPED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_json(body: bytes) -> None:
    """Refuse what a parser would recurse into too far, before it does, and text that no store can hold.

    Raises TooLarge, InvalidSpec. Whether it is JSON at all is the parser's to say.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidSpec(f"The body is not UTF-8: {exc.reason}.", remedy="Send JSON in UTF-8.") from exc
    if _nests_deeper(body, MAX_JSON_DEPTH):
        raise TooLarge(f"The body nests deeper than {MAX_JSON_DEPTH} levels.", remedy="Send flatter JSON.")
    if b"\0" in body or (_ESCAPED.search(body) and not _is_storable(body)):
        raise InvalidSpec(
            "The body holds a zero character or half of a surrogate pair.", remedy="Send text that is Unicode."
        )


def _nests_deeper(body: bytes, levels: int) -> bool:
    brackets = _STRING.sub(b"", body).translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(levels):
        if not brackets:
            return False
        # Each pass takes the innermost level away; what is left in the end was deeper, or unbalanced.
        brackets = brackets.replace(b"[]", b"")
    opened, closed = brackets.count(b"["), brackets.count(b"]")
    return opened > levels or (brackets.startswith(b"[") and opened == closed)


def _is_storable(body: bytes) -> bool:
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
        text.encode("utf-8")
    except json.JSONDecodeError:
        return True
    except UnicodeEncodeError:
        return False
    return "\\u0000" not in text.replace("\\\\", "")


def is_local(request: Request) -> bool:
    """Whether the client is on this machine and asked for it by a name of this machine.

    The name keeps out pages whose host's DNS answer changed to 127.0.0.1; a request that a proxy passed
    on is not from here, wherever the proxy runs.
    """
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    client = request.client.host if request.client else ""
    return not forwarded and keys.is_loopback(client) and keys.is_loopback(_host(request.headers.get("host", "")))


def _host(authority: str) -> str:
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _check_site(request: Request) -> None:
    """Raise NotAllowed for a change that another site's page made a browser ask for.

    Whoever is known by where a request comes from, and not by what it brings, needs this.
    """
    if request.method not in _SAFE_METHODS and _from_elsewhere(request):
        raise NotAllowed(
            "A page of another site sent this request.",
            remedy="Use the service's own pages, a program, or an API key.",
        )


def _from_elsewhere(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def _query_names(dependant: Dependant) -> frozenset[str]:
    below = (_query_names(each) for each in dependant.dependencies)
    return frozenset(field.alias for field in dependant.query_params).union(*below)


def _check_query(request: Request, known: frozenset[str]) -> None:
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise InvalidSpec(
            f"The query's {unknown[0][:100]!r} is no parameter of {request.url.path}.",
            remedy=f"Known: {', '.join(sorted(known))}." if known else "It takes none.",
        )


def _check_content_type(request: Request) -> None:
    message = MimeMessage()
    message["content-type"] = request.headers.get("content-type", "unknown/unknown")
    kind = message.get_content_type()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise WrongMediaType(kind, "application/json")
