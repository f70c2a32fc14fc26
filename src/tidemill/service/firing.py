"""Firing: a due time of a schedule becomes a job, or a note that says why not.

Any number of servers do this at once and nobody leads. Whatever is slow - looking up the model, looking at the
output - comes first; then one transaction holds the schedule's row, checks that it is as it was seen, adds the
firing, whose key is (schedule, due time), and the job, and moves on to what is due next. Who comes second finds
the row changed; who died left nothing; and if it is not known whether a transaction was committed, doing it again
meets the firing that it left.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tidemill.domain.access import Action, Principal
from tidemill.domain.errors import (
    NotAllowed,
    NotFound,
    NothingNew,
    OutputBusy,
    SeriesBusy,
    StoreUnusable,
    TidemillError,
    WrongState,
)
from tidemill.domain.job import Job, JobState, NewJob, Want
from tidemill.domain.lookout import Lookout
from tidemill.domain.schedule import (
    Firing,
    FiringState,
    Meeting,
    Origin,
    Overlap,
    Passed,
    Schedule,
    is_on_time,
    meet,
    passed,
)
from tidemill.domain.trigger import Trigger
from tidemill.service import audit, keys, lookout, submission
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec
from tidemill.wire.templates import spec_at

log = logging.getLogger(__name__)

OVERLAP = "overlap"
"""Code of the reason why a firing waits or was skipped."""

LATEST = 20
"""Among so many firings the job before is looked for."""
DUE_TIMES_AT_ONCE = 100
"""So many of one schedule are dealt with before others have their turn."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a due time comes to as things stand."""

    firing: Firing
    meeting: Meeting
    job: NewJob | None = None
    refusal: TidemillError | None = None


def fire_due(context: Context, schedule: Schedule, now: datetime) -> int:
    """Deal with due times of this schedule that have passed, the oldest first; how many fired here.

    Raises StoreUnusable: what has not fired by then does so the next time.
    """
    if schedule.next_due is None:
        return 0
    if schedule.next_due > now:
        _look_again(context, schedule, now)
        return 0
    todo = passed(schedule.trigger, schedule.next_due, now, schedule.catch_up)
    if isinstance(schedule.trigger, Lookout):
        return _look(context, schedule, schedule.trigger, todo, now)
    if not todo.fire:
        _move_on(context, schedule, todo.next_due, now)
    at_once = todo.fire[:DUE_TIMES_AT_ONCE]
    for number, due in enumerate(at_once):
        following = todo.after(number)
        if not _fire(context, schedule, due, following, now):
            return number
        schedule = replace(schedule, next_due=following)
    return len(at_once)


def _look(context: Context, schedule: Schedule, trigger: Lookout, todo: Passed, now: datetime) -> int:
    """Fire if what the schedule waits for has happened. If not, nothing is kept of the due time but that it passed.

    One look does for all due times that passed, whatever the policy says; while a job is on its way none is needed.
    """
    if todo.fire and not context.store.firings.unfinished(schedule.id, backfill=False):
        noticed = None
        with suppress(SeriesBusy):  # Somebody else's job of the series: what is new then will be seen when it is over.
            noticed = _noticed(context, schedule, trigger, todo.fire[-1], now)
        if noticed is not None:
            plan, seen = noticed
            return _record(context, schedule, plan, todo.next_due, now, trigger.after(seen))
    _move_on(context, schedule, todo.next_due, now)
    return 0


def _noticed(
    context: Context, schedule: Schedule, trigger: Lookout, due: datetime, now: datetime
) -> tuple[_Plan, str] | None:
    """What to do about what has happened, and its name; None if nothing did, or it was told before."""
    firing = Firing(schedule_id=schedule.id, due=due, state=FiringState.STARTED, origin=Origin.DUE, fired_at=now)
    meeting = Meeting(state=FiringState.STARTED)
    seen, latest = trigger.seen, context.store.firings.list(schedule.id, limit=LATEST)
    try:
        who = principal_of(context, schedule)
        there = lookout.look(context, who, trigger, spec_of(schedule, due))
        if there in ("", seen):
            return None
        _give_up(context, who, latest)
        plan, seen = _prepared(context, schedule, firing, meeting, looked=True), there
    except (StoreUnusable, SeriesBusy):
        raise
    except TidemillError as exc:
        plan = _Plan(firing=replace(firing, state=FiringState.REFUSED, reason=exc.to_json()), meeting=meeting)
    if plan.firing.state is FiringState.STARTED:
        return plan, seen
    told = latest and (latest[0].state, latest[0].reason) == (plan.firing.state, plan.firing.reason)
    # It stays to be done: with the next look, when whatever is in the way may have gone.
    return None if told else (plan, trigger.seen)


def _give_up(context: Context, who: Principal, latest: Sequence[Firing]) -> None:
    """Cancel the job before if it failed: it keeps the output for whoever resumes it, and the next does its work."""
    before = next((fired for fired in latest if fired.job_id is not None), None)
    if before is None or before.job_id is None or before.job_state is not JobState.FAILED:
        return
    with suppress(NotFound):  # It was forgotten meanwhile.
        with context.store.transaction():
            cancelled = cancel_former(context, who, before.job_id)
        clear_former(context, cancelled)


def start_waiting(context: Context, schedule: Schedule, firing: Firing, now: datetime) -> bool:
    """Start a firing that waited for the job before it; whether that came to something. Raises StoreUnusable."""
    plan = _prepared(context, schedule, replace(firing, fired_at=now), Meeting(state=FiringState.STARTED))
    if plan.firing.state is FiringState.WAITING:
        return False  # The job before is over, and its worker is just clearing up.
    try:
        with context.store.transaction():
            held = context.store.schedules.find_and_hold(schedule.id)
            line = context.store.firings.unfinished(schedule.id, backfill=firing.is_backfill)
            if held is None or held.paused or any(each.is_active for each in line):
                return False
            if not context.store.firings.settle_if_waiting(plan.firing):
                return False
            _submit(context, plan)
    except SeriesBusy:
        return False
    _tell(schedule, plan.firing)
    return True


def fire_now(
    context: Context, who: Principal, schedule: Schedule, now: datetime, *, request_key: str | None = None
) -> Firing:
    """Fire because somebody asked for it, paused or not; the due time is `now`, to the millisecond.

    The job has the rights of the schedule, not of who asked. Raises WrongState if the overlap policy says skip,
    NotAllowed, NotFound, and as `submission.submit` does.
    """
    while True:
        plan = _plan(context, schedule, now, Origin.RUN, now)
        with context.store.transaction():
            before = _same_request(context, schedule, request_key)
            if before is not None:
                return before
            if plan.refusal is not None and (
                plan.firing.state is FiringState.REFUSED or isinstance(plan.refusal, NothingNew)
            ):
                raise plan.refusal
            if plan.firing.state is FiringState.SKIPPED:
                raise WrongState(
                    f"The schedule {schedule.name} skips what overlaps: {plan.firing.message}",
                    remedy="Wait for that job, or cancel it.",
                )
            if context.store.schedules.find_and_hold(schedule.id) is None:
                raise NotFound(f"The schedule {schedule.name} was removed.", remedy="Add it again.")
            meeting = _meeting(context, schedule, Origin.RUN)
            firing = replace(plan.firing, request_key=request_key)
            if meeting.state is plan.meeting.state and context.store.firings.record_if_new(firing):
                cancelled = _make_way(context, schedule, meeting, now)
                _submit(context, plan)
                audit.record(context, who, "schedule.run", schedule.id, name=schedule.name)
                break
        now += timedelta(milliseconds=1)
    _clear(context, cancelled)
    return firing


def principal_of(context: Context, schedule: Schedule) -> Principal:
    """Whose rights the schedule's jobs have. Raises NotAllowed once its key opens nothing any more."""
    if schedule.key_id is None:
        return Principal(name=schedule.created_by, tenant=schedule.tenant)
    found = context.store.keys.find(schedule.key_id)
    if found is None or not found[0].is_valid(datetime.now(UTC)):
        raise NotAllowed(
            f"The key {schedule.created_by} ({schedule.key_id}), which added the schedule {schedule.name}, was revoked"
            " or has expired: jobs of the schedule have its rights.",
            remedy="Remove the schedule and add it with a key that is valid.",
        )
    who = keys.principal(found[0])
    if not who.may(Action.RUN_JOBS):
        raise NotAllowed(f"A key with the role {who.role} may not run jobs.", remedy="Add the schedule with another.")
    return who


def spec_of(schedule: Schedule, due: datetime) -> JobSpec:
    """The spec of the job that is due then. Raises InvalidSpec."""
    spec = JobSpec.model_validate(schedule.spec)
    named = spec if spec.name is not None else spec.model_copy(update={"name": schedule.name})
    return spec_at(named, due, schedule.trigger.timezone)


def cancel_former(context: Context, who: Principal, job_id: str) -> Job:
    """Cancel a job so that another may take its place; inside a transaction. Its traces go by `clear_former`."""
    job = context.store.jobs.wish(job_id, Want.CANCEL)
    audit.record(context, who, "job.cancel", job.id, name=job.name, state=job.state.value)
    return job


def clear_former(context: Context, job: Job) -> None:
    """After that transaction: what a job that nobody held left is removed here; its holder removes the rest."""
    if job.state is JobState.CANCELLED:
        context.open_sink(JobSpec.model_validate(job.spec)).discard(job.id)


def _fire(context: Context, schedule: Schedule, due: datetime, following: datetime | None, now: datetime) -> bool:
    """One due time; False if the schedule is not as it was seen, or something happened to its jobs meanwhile."""
    origin = Origin.DUE if is_on_time(due, now) else Origin.LATE
    return _record(context, schedule, _plan(context, schedule, due, origin, now), following, now, schedule.trigger)


def _record(
    context: Context, schedule: Schedule, plan: _Plan, following: datetime | None, now: datetime, trigger: Trigger
) -> bool:
    """Make the plan happen, and say what is due next and what the trigger remembers; False as `_fire`."""
    cancelled: Sequence[Job] = ()
    try:
        with context.store.transaction():
            if not _hold_as_seen(context, schedule):
                return False
            meeting = _meeting(context, schedule, plan.firing.origin)
            if meeting.state is not plan.meeting.state:
                return False
            if context.store.firings.record_if_new(plan.firing):
                cancelled = _make_way(context, schedule, meeting, now)
                _submit(context, plan)
            context.store.schedules.move_on(schedule.id, following, checked_at=now, trigger=trigger)
    except SeriesBusy:
        return False  # Somebody submitted a job of the series between the look and this.
    _tell(schedule, plan.firing)
    _clear(context, cancelled)
    return True


def _look_again(context: Context, schedule: Schedule, now: datetime) -> None:
    """The clock was put back: what lies between is due again. What fired has a firing, and does not fire twice."""
    following = schedule.trigger.next_after(now)
    moments = [moment for moment in (schedule.next_due, following) if moment is not None]
    _move_on(context, schedule, min(moments, default=None), now)


def _move_on(context: Context, schedule: Schedule, next_due: datetime | None, now: datetime) -> None:
    with context.store.transaction():
        if _hold_as_seen(context, schedule):
            context.store.schedules.move_on(schedule.id, next_due, checked_at=now, trigger=schedule.trigger)


def _hold_as_seen(context: Context, schedule: Schedule) -> bool:
    held = context.store.schedules.find_and_hold(schedule.id)
    seen = None if held is None else (held.paused, held.next_due, held.trigger)
    return seen == (False, schedule.next_due, schedule.trigger)


def _plan(context: Context, schedule: Schedule, due: datetime, origin: Origin, now: datetime) -> _Plan:
    """What is needed to fire; nothing is changed. Raises StoreUnusable."""
    meeting = _meeting(context, schedule, origin)
    firing = Firing(schedule_id=schedule.id, due=due, state=meeting.state, origin=origin, fired_at=now)
    if meeting.state is FiringState.STARTED:
        return _prepared(context, schedule, firing, meeting)
    return _Plan(firing=replace(firing, reason=_overlap(meeting.message)), meeting=meeting)


def _prepared(context: Context, schedule: Schedule, firing: Firing, meeting: Meeting, *, looked: bool = False) -> _Plan:
    """With the job of this firing, or why there can be none. Whoever `looked` has listed the input of a series."""
    try:
        who = principal_of(context, schedule)
        make = submission.new_job_of_found if looked else submission.new_job
        job = make(context, who, spec_of(schedule, firing.due))
    except StoreUnusable:
        raise
    except NothingNew as exc:
        skipped = replace(firing, state=FiringState.SKIPPED, reason=exc.to_json())
        return _Plan(firing=skipped, meeting=meeting, refusal=exc)
    except (OutputBusy, SeriesBusy) as exc:
        # Whoever works there - the job before, still clearing up, or one of somebody else - overlaps, too.
        skips = schedule.overlap is Overlap.SKIP and not firing.is_backfill and firing.state is not FiringState.WAITING
        state = FiringState.SKIPPED if skips else FiringState.WAITING
        return _Plan(firing=replace(firing, state=state, reason=exc.to_json()), meeting=meeting, refusal=exc)
    except TidemillError as exc:
        refused = replace(firing, state=FiringState.REFUSED, reason=exc.to_json())
        return _Plan(firing=refused, meeting=meeting, refusal=exc)
    started = replace(firing, state=FiringState.STARTED, job_id=job.id, job_state=JobState.QUEUED, reason=None)
    return _Plan(firing=started, meeting=meeting, job=job)


def _meeting(context: Context, schedule: Schedule, origin: Origin) -> Meeting:
    return meet(schedule.overlap, context.store.firings.unfinished(schedule.id, backfill=origin is Origin.BACKFILL))


def _make_way(context: Context, schedule: Schedule, meeting: Meeting, now: datetime) -> list[Job]:
    """Those before it go, as the overlap policy says; inside the transaction of the firing that they make way for."""
    who = Principal(name=f"schedule {schedule.name}", tenant=schedule.tenant, id=schedule.key_id)
    reason = _overlap("A later due time took its place.")
    for waiting in meeting.replace:
        skipped = replace(waiting, state=FiringState.SKIPPED, reason=reason, fired_at=now)
        context.store.firings.settle_if_waiting(skipped)
    return [cancel_former(context, who, job_id) for job_id in meeting.cancel]


def _submit(context: Context, plan: _Plan) -> None:
    if plan.job is not None:
        context.store.jobs.submit(plan.job)


def _clear(context: Context, cancelled: Sequence[Job]) -> None:
    for job in cancelled:
        clear_former(context, job)


def _same_request(context: Context, schedule: Schedule, request_key: str | None) -> Firing | None:
    return None if request_key is None else context.store.firings.find_by_request(schedule.id, request_key)


def _overlap(message: str) -> dict[str, str | None]:
    return {"code": OVERLAP, "message": message, "remedy": None}


def _tell(schedule: Schedule, firing: Firing) -> None:
    due = firing.due.isoformat(timespec="seconds")
    log.info("schedule %s, due %s: %s %s", schedule.name, due, firing.state.value, firing.job_id or firing.message)
