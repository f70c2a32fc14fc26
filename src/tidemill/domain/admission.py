"""Which waiting job is next, and why the others wait. Pure: the store feeds it.

Order: priority; then whoever has the fewest jobs running; then whoever was served longest ago; then
age. So nobody waits behind another's backlog. A job that would fit the host if it were empty, but
does not now, keeps what comes after it from overtaking: big jobs do not starve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job takes of its host while it runs, or what a host has."""

    cpus: int = 1
    memory_bytes: int = 0
    gpus: int = 0

    def fit(self, host: Needs) -> bool:
        """Whether a host with so much free can take it."""
        return self.cpus <= host.cpus and self.memory_bytes <= host.memory_bytes and self.gpus <= host.gpus

    def minus(self, other: Needs) -> Needs:
        return Needs(
            cpus=self.cpus - other.cpus,
            memory_bytes=self.memory_bytes - other.memory_bytes,
            gpus=self.gpus - other.gpus,
        )


class Reason(StrEnum):
    """Why a queued job waits."""

    NEXT = "next"
    """Nothing stands in its way: a worker takes it within moments."""
    BEHIND = "behind"
    """Other jobs come first."""
    HOST_BUSY = "host_busy"
    """No live worker has as much free as it needs."""
    TOO_BIG = "too_big"
    """It needs more than any live worker has."""
    KEY_LIMIT = "key_limit"
    """As many jobs of its key run as may."""
    MODEL_LIMIT = "model_limit"
    """As many jobs of its model run as may."""
    NO_WORKER = "no_worker"
    """No worker is alive."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Waiting jobs that are alike in all that admission looks at; `first` is the oldest one's number."""

    owner: str
    model: str
    """The registered model's name with its tenant, or its digest."""
    priority: int
    needs: Needs
    first: int
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Load:
    """What runs now and what may."""

    running_of_owner: Mapping[str, int] = field(default_factory=dict)
    running_of_model: Mapping[str, int] = field(default_factory=dict)
    served_ms: Mapping[str, int] = field(default_factory=dict)
    """When a job of an owner was last started."""
    limit_of_owner: Mapping[str, int] = field(default_factory=dict)
    limit_of_model: Mapping[str, int] = field(default_factory=dict)


def in_order(groups: Sequence[Group], load: Load) -> list[Group]:
    """Who comes first."""
    return sorted(
        groups,
        key=lambda group: (
            -group.priority,
            load.running_of_owner.get(group.owner, 0),
            load.served_ms.get(group.owner, 0),
            group.first,
        ),
    )


def limited(group: Group, load: Load) -> Reason | None:
    """The limit that keeps these jobs from starting on any host, if one does."""
    most = load.limit_of_owner.get(group.owner)
    if most is not None and load.running_of_owner.get(group.owner, 0) >= most:
        return Reason.KEY_LIMIT
    most = load.limit_of_model.get(group.model)
    if most is not None and load.running_of_model.get(group.model, 0) >= most:
        return Reason.MODEL_LIMIT
    return None


def choose(groups: Sequence[Group], load: Load, *, free: Needs, host: Needs) -> int | None:
    """The number of the job that a host takes next: `free` of all that it has, `host`."""
    for group in in_order(groups, load):
        if limited(group, load) is not None or not group.needs.fit(host):
            continue
        return group.first if group.needs.fit(free) else None
    return None


def reason(group: Group, place: int, load: Load, hosts: Sequence[tuple[Needs, Needs]]) -> Reason:
    """Why jobs of this group wait; `hosts` are (free, all) of each live worker, `place` from 1."""
    if not hosts:
        return Reason.NO_WORKER
    limit = limited(group, load)
    if limit is not None:
        return limit
    if not any(group.needs.fit(host) for _, host in hosts):
        return Reason.TOO_BIG
    if place > 1:
        return Reason.BEHIND
    return Reason.NEXT if any(group.needs.fit(free) for free, _ in hosts) else Reason.HOST_BUSY
