"""The line of waiting jobs as admission sees it: groups instead of jobs, so that a long one costs little."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, assert_never

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, literal_column, select

from tidemill.domain.admission import Group, Load, Needs, Reason, limited, reason
from tidemill.domain.job import LEASED, JobState, Waiting
from tidemill.stores.sql.tables import api_keys, jobs, model_limits

Hosts = Sequence[tuple[Needs, Needs]]
"""(free, all) of each live worker."""

_BACKGROUND = jobs.c.foreground.is_(False)
# A constant, not a parameter: only so a database knows that its index of this state will do.
_IN_LINE = and_(jobs.c.state == literal_column("'queued'"), _BACKGROUND)
_ALIKE = (jobs.c.owner, jobs.c.model_key, jobs.c.priority, jobs.c.cpus, jobs.c.memory_bytes, jobs.c.gpus)


def _line() -> Select[Any]:
    """The groups of the line, and when a job of their owner started last. Made once: that costs more than asking."""
    grouped = (
        select(*_ALIKE, func.min(jobs.c.number).label("first"), func.count().label("waiting"))
        .where(_IN_LINE)
        .group_by(*_ALIKE)
        .subquery()
    )
    starts = jobs.alias("starts")
    served = select(func.max(starts.c.started_at_ms)).where(starts.c.owner == grouped.c.owner).scalar_subquery()
    return select(grouped, served.label("served"))


_LINE = _line()


@dataclass(frozen=True, kw_only=True)
class Line:
    """Who waits, and what runs."""

    groups: Sequence[Group]
    load: Load

    def blocked_models(self) -> set[str]:
        """Models of which as many jobs run as may."""
        return {group.model for group in self.groups if limited(group, self.load) is Reason.MODEL_LIMIT}


@dataclass(frozen=True, kw_only=True)
class Waiter:
    """A job in the line. `ahead` are jobs of the same owner and priority that start before it."""

    group: Group
    ahead: int


def read_line(connection: Connection) -> Line:
    """What admission needs to know, in four statements."""
    rows = connection.execute(_LINE).all()
    groups = [
        Group(
            owner=row.owner,
            model=row.model_key,
            priority=row.priority,
            needs=Needs(cpus=row.cpus, memory_bytes=row.memory_bytes, gpus=row.gpus),
            first=row.first,
            count=row.waiting,
        )
        for row in rows
    ]
    return Line(groups=groups, load=_load(connection, {row.owner: row.served or 0 for row in rows}))


def read_waiters(connection: Connection, line: Line, job_ids: Sequence[str]) -> dict[str, Waiter]:
    """Those of the jobs that wait for a worker."""
    wanted = select(jobs.c.id, jobs.c.number, jobs.c.state, *_ALIKE).where(_BACKGROUND, jobs.c.id.in_(job_ids))
    # The state is looked at here: asked for it, a database goes by its index of states and reads the whole line.
    rows = [row for row in connection.execute(wanted) if row.state == JobState.QUEUED.value]
    ranks = _ranks(connection, line, {row.owner for row in rows}, [row.number for row in rows])
    return {
        row.id: Waiter(
            group=Group(
                owner=row.owner,
                model=row.model_key,
                priority=row.priority,
                needs=Needs(cpus=row.cpus, memory_bytes=row.memory_bytes, gpus=row.gpus),
                first=row.number,
            ),
            ahead=ranks[row.number] - 1,
        )
        for row in rows
        if row.number in ranks
    }


def _ranks(connection: Connection, line: Line, owners: Set[str], numbers: Sequence[int]) -> dict[int, int]:
    """Places from 1 among the jobs of the same owner and priority; those of blocked models hold up only each other.

    Jobs before the first of these are only counted: a page of a long line costs as much as one of a short line.
    """
    if not numbers:
        return {}
    blocked = line.blocked_models()
    theirs = and_(_IN_LINE, jobs.c.owner.in_(owners))
    earlier = _counts(connection, and_(theirs, jobs.c.number < min(numbers)), blocked)
    turn: dict[str, Any] = {"partition_by": (jobs.c.owner, jobs.c.priority), "order_by": jobs.c.number}
    rank: ColumnElement[int] = func.row_number().over(**turn)
    if blocked:
        is_blocked = jobs.c.model_key.in_(blocked)
        rank = case((is_blocked, rank), else_=func.sum(case((is_blocked, 0), else_=1)).over(**turn))
    columns = (jobs.c.number, jobs.c.owner, jobs.c.priority, jobs.c.model_key, rank.label("rank"))
    ranked = select(*columns).where(theirs, jobs.c.number.between(min(numbers), max(numbers))).subquery()
    found = connection.execute(select(ranked).where(ranked.c.number.in_(numbers)))
    return {
        row.number: int(row.rank)
        + earlier[row.owner, row.priority, False]
        + (earlier[row.owner, row.priority, True] if row.model_key in blocked else 0)
        for row in found
    }


def _counts(
    connection: Connection, which: ColumnElement[bool], blocked: Set[str]
) -> defaultdict[tuple[str, int, bool], int]:
    """How many jobs there are of each owner and priority: of blocked models, and of others."""
    alike = (jobs.c.owner, jobs.c.priority, jobs.c.model_key)
    counts: defaultdict[tuple[str, int, bool], int] = defaultdict(int)
    for row in connection.execute(select(*alike, func.count().label("waiting")).where(which).group_by(*alike)):
        counts[row.owner, row.priority, row.model_key in blocked] += row.waiting
    return counts


def explain_waiting(line: Line, waiter: Waiter, hosts: Hosts) -> Waiting:
    """Place, reason and a sentence for people."""
    place = _place(line, waiter, hosts)
    why = reason(waiter.group, place, line.load, hosts)
    return Waiting(place=place, reason=why, detail=_sentence(why, waiter.group, place, line.load, hosts))


def _load(connection: Connection, served_ms: Mapping[str, int]) -> Load:
    running = connection.execute(
        select(jobs.c.owner, jobs.c.model_key, func.count())
        .where(jobs.c.state.in_([state.value for state in LEASED]))
        .group_by(jobs.c.owner, jobs.c.model_key)
    ).all()
    of_owner: dict[str, int] = defaultdict(int)
    of_model: dict[str, int] = defaultdict(int)
    for owner, model, count in running:
        of_owner[owner] += count
        of_model[model] += count
    keys = select(api_keys.c.id, api_keys.c.max_running).where(api_keys.c.max_running.is_not(None))
    models = select(model_limits.c.tenant, model_limits.c.name, model_limits.c.max_running)
    return Load(
        running_of_owner=of_owner,
        running_of_model=of_model,
        served_ms=served_ms,
        limit_of_owner={row.id: row.max_running for row in connection.execute(keys)},
        limit_of_model={f"{row.tenant}/{row.name}": row.max_running for row in connection.execute(models)},
    )


def _place(line: Line, waiter: Waiter, hosts: Hosts) -> int:
    """Owners take turns, whoever has fewest running first. So among jobs of one priority the k-th of an owner
    with r running starts in round r + k, and within a round as `domain.admission.in_order` says."""
    load, own = line.load, waiter.group
    ready: dict[str, int] = defaultdict(int)
    first: dict[str, int] = {}
    place = 1 + waiter.ahead
    for group in line.groups:
        if limited(group, load) is not None or not _fits_some(group, hosts):
            continue
        if group.priority > own.priority:
            place += group.count
        elif group.priority == own.priority and group.owner != own.owner:
            ready[group.owner] += group.count
            first[group.owner] = min(group.first, first.get(group.owner, group.first))
    mine = load.running_of_owner.get(own.owner, 0) + waiter.ahead
    for owner, count in ready.items():
        rounds = mine - load.running_of_owner.get(owner, 0)
        earlier = (load.served_ms.get(owner, 0), first[owner]) < (load.served_ms.get(own.owner, 0), own.first)
        place += min(count, max(0, rounds + int(earlier)))
    return place


def _fits_some(group: Group, hosts: Hosts) -> bool:
    return not hosts or any(group.needs.fit(host) for _, host in hosts)


def _sentence(why: Reason, group: Group, place: int, load: Load, hosts: Hosts) -> str:
    match why:
        case Reason.NEXT:
            return "The next free worker takes it."
        case Reason.BEHIND:
            return "1 job starts before it." if place == 2 else f"{place - 1:,} jobs start before it."
        case Reason.HOST_BUSY:
            return f"It needs {_amount(group.needs)}; live workers have free: {_amounts(free for free, _ in hosts)}."
        case Reason.TOO_BIG:
            return f"It needs {_amount(group.needs)}; live workers have in all: {_amounts(host for _, host in hosts)}."
        case Reason.KEY_LIMIT:
            running, most = load.running_of_owner.get(group.owner, 0), load.limit_of_owner[group.owner]
            return f"{running:,} of at most {most:,} jobs of its key run."
        case Reason.MODEL_LIMIT:
            running, most = load.running_of_model.get(group.model, 0), load.limit_of_model[group.model]
            return f"{running:,} of at most {most:,} jobs of its model run."
        case Reason.NO_WORKER:
            return "No worker is alive: start one with `tidemill worker` or `tidemill serve`."
    assert_never(why)


def _amounts(all_of_them: Iterable[Needs]) -> str:
    amounts = sorted({_amount(needs) for needs in all_of_them})
    return "; ".join(amounts[:3]) + ("; ..." if len(amounts) > 3 else "")


def _amount(needs: Needs) -> str:
    parts = [f"{needs.cpus} CPU" + ("" if needs.cpus == 1 else "s"), f"{needs.memory_bytes / 2**30:.1f} GiB"]
    return ", ".join([*parts, *([f"{needs.gpus} GPU" + ("" if needs.gpus == 1 else "s")] if needs.gpus else [])])
