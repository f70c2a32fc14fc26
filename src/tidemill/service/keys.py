"""API keys: made, shown once, checked, revoked. Only the SHA-256 of a secret is kept."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime

from tidemill.domain.access import ApiKey, Principal, Role
from tidemill.domain.errors import NotAllowed, NotAuthenticated, Refused
from tidemill.service import audit
from tidemill.service.context import Context
from tidemill.service.tokens import is_genuine, new_token, read_token
from tidemill.wire.api import AddKey, KeyOut

Keys = list[ApiKey]

LOCAL = "local"
"""The name of whoever reaches the service over loopback while there are no keys."""

MADE_BY = "An administrator makes one with: tidemill keys add NAME. Send it as `Authorization: Bearer KEY`."
"""The remedy where a key is needed."""


def add(context: Context, who: Principal, wanted: AddKey) -> tuple[ApiKey, str]:
    """Make a key; it and its text, which nobody can see again. Raises NotAllowed, Refused.

    Only the person at the service's machine makes keys of other tenants.
    """
    tenant = wanted.tenant or who.tenant
    if tenant != who.tenant and not who.is_here:
        raise NotAllowed(
            f"A key of the tenant {who.tenant} makes no keys of {tenant}.",
            remedy="Make it at the service's own machine with: tidemill keys add --tenant.",
        )
    now = datetime.now(UTC)
    expires_at = _aware(wanted.expires_at)
    if expires_at is not None and expires_at <= now:
        raise Refused(
            f"The key would expire at {expires_at.isoformat()}, which is over.", remedy="Give a time to come."
        )
    token = new_token("key")
    key = ApiKey(
        id=token.id,
        name=wanted.name,
        tenant=tenant,
        role=Role(wanted.role),
        owner=wanted.owner,
        max_running=wanted.max_running,
        requests_per_minute=wanted.requests_per_minute,
        created_at=now,
        expires_at=expires_at,
    )
    with context.store.transaction():
        context.store.keys.add(key, token.sha256)
        audit.record(context, who, "key.add", key.id, name=key.name, role=key.role.value, tenant=tenant)
    return key, token.text


def list(context: Context, who: Principal) -> Keys:
    """Keys of the caller's tenant, revoked ones too; the person at the machine sees all."""
    return context.store.keys.list(None if who.is_here else who.tenant)


def revoke(context: Context, who: Principal, key_id: str) -> ApiKey:
    """Close it for ever. Safe to repeat. Raises NotFound, also for another tenant's."""
    with context.store.transaction():
        key = context.store.keys.revoke(key_id, None if who.is_here else who.tenant)
        audit.record(context, who, "key.revoke", key.id, name=key.name, tenant=key.tenant)
    return key


def authenticate(context: Context, header: str | None, *, loopback: bool) -> Principal:
    """Who sends this header "Bearer KEY"; without one, who is at this machine if no key was ever made.

    Raises NotAuthenticated.
    """
    if header is not None:
        return principal(check(context, header.removeprefix("Bearer ").strip()))
    if loopback and not context.store.keys.any():
        return Principal(name=LOCAL)
    raise NotAuthenticated("This needs an API key.", remedy=MADE_BY)


def check(context: Context, text: str) -> ApiKey:
    """The valid key of this text. Raises NotAuthenticated, which never says what was wrong with it."""
    token = read_token(text)
    found = context.store.keys.find(token.id)
    genuine = is_genuine(token, found[1] if found else None)
    if found is None or not genuine or not found[0].is_valid(datetime.now(UTC)):
        raise NotAuthenticated("This API key is not valid: unknown, revoked or expired.", remedy=MADE_BY)
    context.store.keys.touch(found[0].id)
    return found[0]


def principal(key: ApiKey) -> Principal:
    """The key as somebody who asks."""
    return Principal(name=key.name, tenant=key.tenant, role=key.role, id=key.id)


def person_here(context: Context) -> Principal:
    """Whoever runs this command on the service's own machine: the file system let them in."""
    return Principal(name=context.user)


def is_loopback(host: str) -> bool:
    """Whether a name or address always means this very machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def describe(key: ApiKey) -> KeyOut:
    """A key as the doors show it."""
    return KeyOut(
        id=key.id,
        name=key.name,
        tenant=key.tenant,
        role=key.role.value,
        owner=key.owner,
        max_running=key.max_running,
        requests_per_minute=key.requests_per_minute,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
    )


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
