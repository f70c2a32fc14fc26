"""What a proxy in front says of the person who sends a request."""

from __future__ import annotations

import ipaddress

from starlette.requests import Request

from tidemill.domain.errors import NotAuthenticated
from tidemill.domain.login import Logins, Person

MAX_BYTES = 16 << 10
_REMEDY = "The operator of the proxy has it set the header once, and take away what clients send."


def person_of(request: Request, logins: Logins | None) -> Person | None:
    """Whom the proxy vouches for; None if the request does not come from a trusted one, or it names nobody.

    Raises NotAuthenticated for headers that a client may have had a hand in.
    """
    if logins is None or not _comes_from(request, logins):
        return None
    name = _only(request, logins.user_header)
    if name is None:
        return None
    if "," in name:
        raise NotAuthenticated(f"{logins.user_header} names more than one person.", remedy=_REMEDY)
    groups = (_only(request, logins.groups_header) if logins.groups_header else None) or ""
    named = frozenset(group.strip() for group in groups.split(",") if group.strip())
    return Person(name=name, groups=named, vouched_by="proxy")


def _comes_from(request: Request, logins: Logins) -> bool:
    """Of the connection itself: what a header says of where a request comes from is not asked."""
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in logins.trusted_proxies)


def _only(request: Request, header: str) -> str | None:
    """A header's value; None if it is not there or empty."""
    values = request.headers.getlist(header)
    if len(values) > 1:
        raise NotAuthenticated(f"{header} came {len(values)} times.", remedy=_REMEDY)
    if not values or not values[0].strip():
        return None
    try:
        text = values[0].encode("latin-1").decode("utf-8").strip()
    except UnicodeDecodeError as exc:
        raise NotAuthenticated(f"{header} is not UTF-8.", remedy=_REMEDY) from exc
    if not text.isprintable() or len(text) > MAX_BYTES:
        raise NotAuthenticated(f"{header} cannot be printed, or is too long.", remedy=_REMEDY)
    return text
