"""The service at a glance."""

from __future__ import annotations

from datetime import datetime

from tidemill.domain import cost
from tidemill.domain.access import Principal
from tidemill.domain.cost import UsageBy
from tidemill.domain.version import __version__
from tidemill.ports.store import LiveWorker
from tidemill.service import status
from tidemill.service.context import Context
from tidemill.wire.api import ServiceInfo, UsageList, UsageSum, WorkerOut


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


def usage(
    context: Context, who: Principal, by: UsageBy, *, since: datetime | None = None, limit: int = 100
) -> UsageList:
    """What jobs of the caller's tenant used that are remembered and were submitted since then, by model or key."""
    sums = context.store.history.usage(by, tenant=who.tenant, since=since, limit=limit + 1)
    return UsageList(items=[_usage_sum(context, each) for each in sums[:limit]], truncated=len(sums) > limit)


def _usage_sum(context: Context, each: cost.UsageSum) -> UsageSum:
    return UsageSum(
        of=each.of,
        jobs=each.jobs,
        predicted=each.predicted,
        rejected=each.rejected,
        usage=status.priced(context.rates, each.usage, jobs=each.jobs),
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
