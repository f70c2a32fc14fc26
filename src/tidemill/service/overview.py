"""The service at a glance."""

from __future__ import annotations

from tidemill.domain.access import Principal
from tidemill.domain.version import __version__
from tidemill.ports.store import LiveWorker
from tidemill.service.context import Context
from tidemill.wire.api import ServiceInfo, WorkerOut


def info(context: Context, who: Principal) -> ServiceInfo:
    """How many jobs of the caller's tenant stand where, and which workers live."""
    counts = context.store.history.counts_by_state(who.tenant)
    return ServiceInfo(
        version=__version__,
        jobs={state.value: number for state, number in counts.items()},
        workers=[_worker(live) for live in context.store.workers.list_live()],
        authenticated_as=who.name,
        role=who.role.value,
    )


def _worker(live: LiveWorker) -> WorkerOut:
    facts = live.facts
    return WorkerOut(
        id=facts.id,
        host=facts.host,
        version=facts.version,
        cpus=facts.capacity.cpus,
        free_cpus=max(facts.free.cpus, 0),
        draining=facts.draining,
        started_at=live.started_at,
        seen_at=live.seen_at,
    )
