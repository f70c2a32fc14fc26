"""People who log in: what is said of them, and which rule lets them in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from tidemill.domain.access import DEFAULT_TENANT, Principal, Role

EVERYBODY = "*"
_PREFIX = "user:"


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody for whom a login provider or a trusted proxy vouches."""

    name: str
    """An e-mail address or a user name: what rules name."""
    groups: frozenset[str] = frozenset()
    vouched_by: str
    """"proxy", or the URL of the login provider."""


@dataclass(frozen=True, kw_only=True)
class LoginRule:
    """Whom to let in, and as what: either a user or a group."""

    role: Role
    tenant: str = DEFAULT_TENANT
    user: str | None = None
    """A name, or `EVERYBODY` for whoever is vouched for."""
    group: str | None = None

    def names(self, person: Person) -> bool:
        """Whether it speaks of this person. E-mail addresses are compared without regard to case."""
        if self.group is not None:
            return self.group in person.groups
        return self.user in (EVERYBODY, person.name) or (
            self.user is not None and "@" in self.user and self.user.casefold() == person.name.casefold()
        )


@dataclass(frozen=True, kw_only=True)
class Logins:
    """How people log in, and who may."""

    rules: tuple[LoginRule, ...]
    session_hours: float
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses of proxies whose headers are believed."""
    user_header: str = ""
    groups_header: str | None = None


@dataclass(frozen=True, kw_only=True)
class Session:
    """A browser in which somebody logged in; its secret is not among it."""

    id: str
    person: Person
    created_at: datetime
    expires_at: datetime


def principal_of(person: Person, rules: Iterable[LoginRule]) -> Principal | None:
    """Who they are here, by the first rule that names them; None: nobody."""
    for rule in rules:
        if rule.names(person):
            return Principal(name=person.name, tenant=rule.tenant, role=rule.role, id=f"{_PREFIX}{person.name}")
    return None


def shown_owner(owner: str) -> str:
    """What to call the owner of a job who is a person; anybody else stays as they are."""
    return owner.removeprefix(_PREFIX)
