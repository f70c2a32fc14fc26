"""Who is let in, and what a body may be, before any endpoint sees it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from tidemill.api.access import OPEN, Gate, RateLimit, check_json, check_routes, door, is_local, needs
from tidemill.api.errors import STATUS, status_of
from tidemill.domain import errors
from tidemill.domain.access import NEEDS, Action, Principal, Role
from tidemill.domain.errors import InvalidSpec, TooLarge, TooManyRequests
from tidemill.service.keys import is_loopback


def request(headers: dict[str, str], client: str | None = "127.0.0.1") -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "headers": raw, "client": (client, 4711) if client else None})


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("action", Action)
def test_every_action_has_a_least_role(role: Role, action: Action) -> None:
    order = [Role.VIEWER, Role.OPERATOR, Role.ADMIN]
    assert Principal(name="a", role=role).may(action) == (order.index(role) >= order.index(NEEDS[action]))


def test_an_endpoint_that_does_not_say_who_may_call_it_becomes_no_route() -> None:
    router = door("/things", "things")

    def forgotten() -> str:
        return "data"

    with pytest.raises(TypeError, match=r"forgotten does not say who may call it"):
        router.get("")(forgotten)
    assert router.routes == []


def test_a_route_that_is_no_gate_is_refused() -> None:
    router = door("/things", "things")

    @router.get("")
    @needs(OPEN)
    def fine() -> str:
        return "data"

    def app_of(*routes: BaseRoute) -> FastAPI:
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        app.include_router(router)
        app.router.routes.extend(routes)
        return app

    page = Route("/page", lambda request: None)
    (route,) = router.routes
    assert isinstance(route, Gate)
    check_routes(app_of(page), others=[page])
    with pytest.raises(TypeError, match="page' is open to everybody"):
        check_routes(app_of(page), others=[])
    router.add_route("/back-door", lambda request: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="back-door' is open to everybody"):
        check_routes(app_of(page), others=[page])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "localhost", "LocalHost."])
def test_names_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "127.0.0.1.nip.example", "", "1", "::ffff:10.0.0.1"]
)
def test_names_of_other_machines(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost", "[::1]:8642"])
def test_a_local_request(host: str) -> None:
    assert is_local(request({"Host": host}))


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"Host": "evil.example"}, "127.0.0.1"),
        ({"Host": "127.0.0.1"}, "10.0.0.7"),
        ({"Host": "127.0.0.1"}, None),
        ({}, "127.0.0.1"),
        ({"Host": "127.0.0.1@evil.example"}, "127.0.0.1"),
        ({"Host": "[::1"}, "127.0.0.1"),
        ({"Host": "127.0.0.1", "X-Forwarded-For": "127.0.0.1"}, "127.0.0.1"),
        ({"Host": "127.0.0.1", "Forwarded": "for=127.0.0.1"}, "127.0.0.1"),
    ],
)
def test_a_request_that_only_looks_local(headers: dict[str, str], client: str | None) -> None:
    assert not is_local(request(headers, client))


def test_so_many_requests_a_minute_and_no_more() -> None:
    now = [100.0]
    rate = RateLimit(lambda: now[0])
    for _ in range(10):
        rate.take("key_a", 60, "requests")
    with pytest.raises(TooManyRequests, match="More than 60 requests a minute"):
        rate.take("key_a", 60, "requests")
    rate.take("key_b", 60, "requests")
    now[0] += 2.0
    rate.take("key_a", 60, "requests")
    rate.take("key_a", 60, "requests")
    with pytest.raises(TooManyRequests):
        rate.take("key_a", 60, "requests")


def test_refused_requests_do_not_put_off_the_next_one() -> None:
    now = [0.0]
    rate = RateLimit(lambda: now[0])
    rate.take("key", 6, "requests")
    for _ in range(90):
        now[0] += 0.1
        with pytest.raises(TooManyRequests):
            rate.take("key", 6, "requests")
    now[0] = 10.1
    rate.take("key", 6, "requests")


def nested(depth: int) -> Any:
    return [] if depth == 1 else ([nested(depth - 1)] if depth % 2 else {"a": nested(depth - 1)})


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"nonsense", b'{"a": "[[[["}', json.dumps(nested(64)).encode(), b'{"a": "\\\\u0000 \\\\ud800"}',
     '{"a": "\\ud83d\\ude00 ä"}'.encode(), b'["' + b"[" * 5000 + b'"]', b"[[[", b"]]]]" * 100, b'["\\"' + b"[" * 99],
)  # fmt: skip
def test_bodies_that_a_parser_may_have(body: bytes) -> None:
    check_json(body)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(nested(65)).encode(),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 65 + b"1" + b"]" * 65,
        b'["\\\\", ' + b"[" * 65 + b"]" * 65 + b"]",
        b"[" * 165 + b"]" * 99,
    ],
)
def test_bodies_that_nest_too_deep(body: bytes) -> None:
    with pytest.raises(TooLarge, match="nests deeper than 64 levels"):
        check_json(body)


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe[\x00]\x00", b"[\x00]\x00", b'{"a": "\\u0000"}', b'{"a": "\\ud800"}', b'{"\\udc00x": 1}', b"\x80",
     b'["\\\\\\u0000"]'],
)  # fmt: skip
def test_bodies_that_no_store_can_hold(body: bytes) -> None:
    with pytest.raises(InvalidSpec):
        check_json(body)


def test_depth_is_what_the_parser_sees() -> None:
    """Against the parser itself, over random documents with brackets and quotes inside strings."""
    dice = random.Random(7)

    def document(depth: int) -> Any:
        kind = dice.randrange(4)
        if depth <= 0 or kind == 0:
            return "".join(dice.choice('[]{}"\\ a') for _ in range(dice.randrange(6)))
        if kind == 1:
            return [document(depth - 1) for _ in range(dice.randrange(3))]
        return {document(0): document(depth - dice.randrange(1, 9)) for _ in range(2)}

    def depth_of(value: Any) -> int:
        below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if below is None else 1 + max(map(depth_of, below), default=0)

    seen = set()
    for _ in range(300):
        value = document(dice.choice([5, 60, 66, 70]))
        for _ in range(dice.randrange(50, 66)):
            value = [value]
        too_deep = depth_of(value) > 64
        seen.add(too_deep)
        body = json.dumps(value).encode()
        if too_deep:
            with pytest.raises(TooLarge):
                check_json(body)
        else:
            check_json(body)
    assert seen == {True, False}


def test_every_error_has_a_status_of_its_own() -> None:
    assert set(errors.BY_CODE.values()) == set(STATUS)


def test_a_class_that_came_later_has_its_parents_status() -> None:
    class Later(errors.NotFound):
        """Later."""

    assert status_of(Later()) == 404
