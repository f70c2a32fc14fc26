"""Who may do what. One table; what is not in it is denied."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

DEFAULT_TENANT = "default"


class Role(StrEnum):
    """What somebody may do, each more than the one before."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Action(StrEnum):
    """What a use case does, as a permission."""

    SEE = "see"
    """Read jobs, results, models and usage of one's own tenant."""
    RUN_JOBS = "run_jobs"
    """Submit, cancel, pause, resume, retry, clone; send input."""
    PRIORITISE = "prioritise"
    """Submit with a priority above 0, which goes before everybody else's jobs."""
    MANAGE_WEBHOOKS = "manage_webhooks"
    """Have jobs of one's own tenant told of elsewhere, and see where."""
    ADD_MODELS = "add_models"
    """Add versions and move aliases."""
    TRUST_MODELS = "trust_models"
    """Allow a digest to run code."""
    MANAGE_KEYS = "manage_keys"
    """Make and revoke keys, and end logins."""
    READ_AUDIT = "read_audit"
    SEE_METRICS = "see_metrics"
    """Read figures of the whole service, which are of all tenants."""


_R = Role
NEEDS = MappingProxyType(
    {
        Action.SEE: _R.VIEWER,
        Action.RUN_JOBS: _R.OPERATOR,
        Action.MANAGE_WEBHOOKS: _R.OPERATOR,
        Action.ADD_MODELS: _R.OPERATOR,
        Action.PRIORITISE: _R.ADMIN,
        Action.TRUST_MODELS: _R.ADMIN,
        Action.MANAGE_KEYS: _R.ADMIN,
        Action.READ_AUDIT: _R.ADMIN,
        Action.SEE_METRICS: _R.VIEWER,
    }
)
"""The least role for each action."""

_RANK = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who asks: a key, a person who logged in, or the person at this machine."""

    name: str
    """For people and for the audit log."""
    tenant: str = DEFAULT_TENANT
    role: Role = Role.ADMIN
    id: str | None = None
    """Of the key (`key_...`) or of the person who logged in (`user:...`); None for the person at this machine."""

    @property
    def is_here(self) -> bool:
        """Whether it is the person at this machine, who has the rights of the file system."""
        return self.id is None

    @property
    def logged_in(self) -> bool:
        """Whether it is a person who logged in, whose rights end with the login."""
        return self.id is not None and self.id.startswith("user:")

    @property
    def owner(self) -> str:
        """Whose share of the machines a job counts against."""
        return self.id or self.name

    def may(self, action: Action) -> bool:
        """Whether the table allows it."""
        least = NEEDS.get(action)
        return least is not None and _RANK[self.role] >= _RANK[least]


FROM_ELSEWHERE = ("key_", "user:")
"""What the ids of all begin with who are not the person at the machine."""


def is_from_elsewhere(owner: str) -> bool:
    """Whether a job's owner came with a key: its places were checked, and are again when it runs."""
    return owner.startswith(FROM_ELSEWHERE)


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key as the store knows it; its secret is not among it."""

    id: str
    name: str
    tenant: str
    role: Role
    owner: str
    """The person or team that answers for it."""
    max_running: int | None = None
    """How many of its jobs may run at once; None: as many as fit."""
    requests_per_minute: int | None = None
    """None: the service's own limit."""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Something a person did that others may ask about later."""

    number: int = 0
    """The store counts them."""
    at: datetime | None = None
    tenant: str
    actor: str
    action: str
    """For example "model.trust", "alias.move", "job.cancel", "key.add"."""
    subject: str
    """The id or name of what it was done to."""
    detail: dict[str, str]
