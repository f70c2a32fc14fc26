"""Schedules of one's tenant: add, look, pause, run now, back-fill."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from typing import assert_never
from zoneinfo import ZoneInfo

from tidemill.domain.access import Principal
from tidemill.domain.errors import InvalidSpec, NotAllowed, NotFound, TooLarge
from tidemill.domain.ids import new_id
from tidemill.domain.job import Idempotency, Job, JobState
from tidemill.domain.lookout import AliasMoved, Lookout, NewFiles, check_overlap
from tidemill.domain.schedule import CatchUp, Firing, FiringState, Origin, Overlap, Schedule, date_state
from tidemill.domain.trigger import Cron, Interval, Trigger
from tidemill.service import audit, firing, lookout, submission
from tidemill.service.context import Context
from tidemill.wire.schedules import (
    AddSchedule,
    AliasMovedTrigger,
    BackfillOut,
    BackfillRequest,
    CronTrigger,
    DateOut,
    DueTime,
    DueTimes,
    FiringOut,
    FiringPage,
    IntervalTrigger,
    NewFilesTrigger,
    Reason,
    ScheduleOut,
    SchedulePage,
    TimerSpec,
    TriggerSpec,
)
from tidemill.wire.spec import JobSpec, seconds_of
from tidemill.wire.templates import has_template

MOST_DATES = 1000
"""So many due times are looked at in one back-fill."""
PREVIEWED = 10
"""So many due times to come are compared when it is looked for outputs that collide."""


def add(
    context: Context, who: Principal, wanted: AddSchedule, *, idempotency_key: str | None = None
) -> tuple[Schedule, bool]:
    """Store a schedule; (schedule, whether it is new). What can be checked before it is due is checked.

    Its jobs have the rights of whoever adds it. Raises InvalidSpec, NotFound, NotAllowed, NotTrusted, Refused for a
    name that is taken, KeyReused.
    """
    if who.logged_in:
        raise NotAllowed(
            "A login ends, and with it the rights that a schedule's jobs would have.",
            remedy="Add the schedule with an API key: tidemill schedules add, or the REST API.",
        )
    now = context.store.schedules.now()
    trigger, spec = _trigger(wanted.trigger, now), wanted.spec
    if isinstance(trigger, Lookout):
        trigger, spec = lookout.prepared(context, who, trigger, spec, wanted.name)
    schedule = Schedule(
        id=new_id("sched"),
        tenant=who.tenant,
        name=wanted.name,
        spec=spec.model_dump(mode="json"),
        trigger=trigger,
        overlap=Overlap(wanted.overlap),
        catch_up=CatchUp(wanted.catch_up),
        paused=wanted.paused,
        key_id=who.id,
        created_by=who.name,
        created_at=now,
        next_due=trigger.next_after(now),
        checked_at=now,
    )
    check_overlap(schedule)
    if schedule.next_due is None:
        raise InvalidSpec(f"{trigger.describe()} is never due.", remedy="Check the trigger.")
    submission.check(context, who, firing.spec_of(schedule, schedule.next_due))
    said = json.dumps(wanted.model_dump(mode="json"), sort_keys=True)
    promise = None
    if idempotency_key is not None:
        promise = Idempotency(key=idempotency_key, request_digest=hashlib.sha256(said.encode()).hexdigest())
    with context.store.transaction():
        stored, is_new = context.store.schedules.add(schedule, promise)
        if is_new:
            audit.record(context, who, "schedule.add", stored.id, name=stored.name, trigger=trigger.describe())
    return stored, is_new


def get(context: Context, who: Principal, which: str) -> Schedule:
    """By id or name. Raises NotFound, also for another tenant's."""
    return context.store.schedules.get(who.tenant, which)


def list_schedules(context: Context, who: Principal, *, limit: int = 100, after: str | None = None) -> SchedulePage:
    """By name; `next` is the `after` of the next page."""
    found = context.store.schedules.list(who.tenant, limit=limit + 1, after=after)
    following = found[limit - 1].name if len(found) > limit else None
    return SchedulePage(items=[describe(context, each) for each in found[:limit]], next=following)


def remove(context: Context, who: Principal, which: str) -> Schedule:
    """Forget it and its firings; jobs that it started go on. Raises NotFound."""
    schedule = get(context, who, which)
    with context.store.transaction():
        context.store.schedules.remove(schedule.id)
        audit.record(context, who, "schedule.remove", schedule.id, name=schedule.name)
    return schedule


def pause(context: Context, who: Principal, which: str) -> Schedule:
    """From when this returns nothing fires by itself, and nothing that waits starts. Safe to repeat."""
    return _set_paused(context, who, which, paused=True)


def resume(context: Context, who: Principal, which: str) -> Schedule:
    """Fire again, from now on: what was due meanwhile is not caught up with. Safe to repeat."""
    return _set_paused(context, who, which, paused=False)


def run(context: Context, who: Principal, which: str, *, idempotency_key: str | None = None) -> Firing:
    """Fire now, paused or not; `firing.fire_now` says more."""
    schedule = get(context, who, which)
    return firing.fire_now(context, who, schedule, context.store.schedules.now(), request_key=idempotency_key)


def firings(
    context: Context, who: Principal, which: str, *, limit: int = 50, before: datetime | None = None
) -> FiringPage:
    """Latest due first; `next` is the `before` of the next page. Raises NotFound."""
    schedule = get(context, who, which)
    found = context.store.firings.list(schedule.id, limit=limit + 1, before=before)
    following = found[limit - 1].due.isoformat() if len(found) > limit else None
    return FiringPage(items=[describe_firing(schedule, each) for each in found[:limit]], next=following)


def next_due_times(context: Context, who: Principal, which: str, count: int = PREVIEWED) -> DueTimes:
    """What comes, with paths as its jobs will have them, paused or not. Raises NotFound."""
    schedule = get(context, who, which)
    after = context.store.schedules.now()
    items = [_due_time(schedule, due) for due in islice(schedule.trigger.due_times(after), count)]
    return DueTimes(items=items, warnings=_warnings(schedule, after))


def backfill(context: Context, who: Principal, which: str, wanted: BackfillRequest) -> BackfillOut:
    """Look at the due times of some days of the past, and start those in the states that were asked for.

    They run one after the other, oldest first, beside what fires by itself. Raises NotFound, InvalidSpec, TooLarge.
    """
    schedule = get(context, who, which)
    if isinstance(schedule.trigger, Lookout):
        raise InvalidSpec(
            f"{schedule.name} waits for {schedule.trigger.event}: it has no dates that could be filled in.",
            remedy=f"Fire it with: tidemill schedules run {schedule.name}",
        )
    now = context.store.schedules.now()
    dues = _due_on(schedule, wanted, now)
    fired = {each.due: each for each in context.store.firings.between(schedule.id, dues[0], dues[-1])} if dues else {}
    items = [_date(schedule, due, fired.get(due), wanted) for due in dues]
    if not wanted.dry_run:
        items = _start(context, who, schedule, items, fired, now)
    started = 0 if wanted.dry_run else sum(item.starts for item in items)
    return BackfillOut(items=items, started=started, paused=schedule.paused)


def describe(context: Context, schedule: Schedule) -> ScheduleOut:
    """A schedule as the doors show it."""
    last = context.store.firings.list(schedule.id, limit=1)
    due = None if schedule.paused else schedule.next_due
    return ScheduleOut(
        id=schedule.id,
        name=schedule.name,
        spec=schedule.spec,
        trigger=schedule.trigger.to_json(),
        trigger_text=schedule.trigger.describe(),
        timezone=schedule.trigger.timezone,
        overlap=schedule.overlap.value,
        catch_up=schedule.catch_up.value,
        paused=schedule.paused,
        key_id=schedule.key_id,
        created_by=schedule.created_by,
        created_at=schedule.created_at,
        next_due=due,
        next_local=None if due is None else _local(schedule, due),
        last=describe_firing(schedule, last[0]) if last else None,
        warnings=_warnings(schedule, schedule.checked_at),
    )


def describe_firing(schedule: Schedule, fired: Firing) -> FiringOut:
    """A firing as the doors show it."""
    return FiringOut(
        due=fired.due,
        local=_local(schedule, fired.due),
        state=fired.state.value,
        origin=fired.origin.value,
        job_id=fired.job_id,
        job_state=None if fired.job_state is None else fired.job_state.value,
        reason=None if fired.reason is None else Reason.model_validate(fired.reason),
        fired_at=fired.fired_at,
    )


def _trigger(wanted: TriggerSpec, now: datetime) -> Trigger:
    match wanted:
        case NewFilesTrigger():
            return NewFiles(when=_timer(wanted.look, now))
        case AliasMovedTrigger():
            return AliasMoved(when=_timer(wanted.look, now))
        case _:
            return _timer(wanted, now)


def _timer(wanted: TimerSpec, now: datetime) -> Cron | Interval:
    match wanted:
        case CronTrigger():
            return Cron(expression=" ".join(wanted.cron.split()), zone=wanted.timezone)
        case IntervalTrigger():
            seconds = seconds_of(wanted.every)
            if not seconds.is_integer():
                raise InvalidSpec(f"{wanted.every} is no whole number of seconds.", remedy="Give one, such as 90s.")
            start = (wanted.start or now).astimezone(UTC).replace(microsecond=0)
            return Interval(every_seconds=int(seconds), start=start, zone=wanted.timezone)
        case _:
            assert_never(wanted)


def _set_paused(context: Context, who: Principal, which: str, *, paused: bool) -> Schedule:
    schedule = get(context, who, which)
    with context.store.transaction():
        held = context.store.schedules.find_and_hold(schedule.id)
        if held is not None and held.paused is not paused:
            now = context.store.schedules.now()
            context.store.schedules.set_paused(held.id, paused)
            if not paused:
                context.store.schedules.move_on(held.id, held.trigger.next_after(now), checked_at=now)
            audit.record(context, who, f"schedule.{'pause' if paused else 'resume'}", held.id, name=held.name)
    return get(context, who, schedule.id)


def _due_time(schedule: Schedule, due: datetime) -> DueTime:
    spec = firing.spec_of(schedule, due)
    return DueTime(
        due=due,
        local=_local(schedule, due),
        input=list(spec.input.path),
        output=None if spec.output is None else spec.output.path,
    )


def _local(schedule: Schedule, due: datetime) -> str:
    local = due.astimezone(ZoneInfo(schedule.trigger.timezone))
    return f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"


def _warnings(schedule: Schedule, after: datetime) -> list[str]:
    """What is allowed and yet hardly meant."""
    spec = JobSpec.model_validate(schedule.spec)
    said = []
    if spec.output is not None and spec.output.mode == "error":
        times = [_due_time(schedule, due) for due in islice(schedule.trigger.due_times(after), PREVIEWED)]
        counts = Counter(each.output for each in times)
        output, most = counts.most_common(1)[0] if counts else (None, 0)
        if most > 1:
            said.append(
                f"{most} of the next {len(times)} jobs write to {output}, and all but the first will be refused. Put"
                ' the due time into it, such as {{ due | date("%Y-%m-%dT%H%M") }}, or say mode: overwrite or append.'
            )
    is_timed = not isinstance(schedule.trigger, Lookout)
    if any(path.startswith(submission.UPLOAD) for path in spec.input.path):
        said.append("Uploads are removed after some days: name input that stays, on the service's own disk.")
    if has_template(spec) and is_timed and schedule.catch_up is not CatchUp.ALL:
        said.append(
            "Paths hold the due time, and due times that no server was there for are not all caught up with: say"
            " catch-up: all, or fill them in later by a back-fill."
        )
    return said


def _due_on(schedule: Schedule, wanted: BackfillRequest, now: datetime) -> list[datetime]:
    """Due times of these days, as days are in the schedule's zone, that are over."""
    if wanted.last < wanted.first:
        raise InvalidSpec(
            f"The last day, {wanted.last}, is before the first, {wanted.first}.", remedy="Change them over."
        )
    zone = ZoneInfo(schedule.trigger.timezone)
    first = datetime.combine(wanted.first, time(), zone).astimezone(UTC)
    end = datetime.combine(wanted.last + timedelta(days=1), time(), zone).astimezone(UTC)
    dues = list(islice(_between(schedule.trigger, first, min(end, now)), MOST_DATES + 1))
    if len(dues) > MOST_DATES:
        raise TooLarge(
            f"{schedule.name} was due more than {MOST_DATES:,} times from {wanted.first} to {wanted.last}.",
            remedy="Back-fill fewer days at once.",
        )
    return dues


def _between(trigger: Trigger, first: datetime, end: datetime) -> Iterator[datetime]:
    for due in trigger.due_times(first - timedelta(microseconds=1)):
        if due >= end:
            return
        yield due


def _date(schedule: Schedule, due: datetime, fired: Firing | None, wanted: BackfillRequest) -> DateOut:
    state = date_state(fired)
    return DateOut(
        due=due,
        local=_local(schedule, due),
        state=state,
        job_id=None if fired is None else fired.job_id,
        message="" if fired is None else fired.message,
        starts=state in wanted.states,
    )


def _start(
    context: Context,
    who: Principal,
    schedule: Schedule,
    items: Sequence[DateOut],
    fired: dict[datetime, Firing],
    now: datetime,
) -> list[DateOut]:
    """Let those that were asked for wait in their line; told is what came of it."""
    told, cleared = [], list[Job]()
    with context.store.transaction():
        if context.store.schedules.find_and_hold(schedule.id) is None:
            raise NotFound(f"The schedule {schedule.name} was removed.", remedy="Add it again.")
        for item in items:
            if not item.starts:
                told.append(item)
                continue
            cleared += _give_up(context, who, fired.get(item.due))
            new = Firing(
                schedule_id=schedule.id,
                due=item.due,
                state=FiringState.WAITING,
                origin=Origin.BACKFILL,
                fired_at=now,
            )
            starts = context.store.firings.record_if_new(new) or context.store.firings.replace_if_over(new)
            told.append(item.model_copy(update={"starts": starts}))
        audit.record(
            context,
            who,
            "schedule.backfill",
            schedule.id,
            name=schedule.name,
            first=items[0].local if items else "",
            last=items[-1].local if items else "",
            started=str(sum(item.starts for item in told)),
        )
    for job in cleared:
        firing.clear_former(context, job)
    return told


def _give_up(context: Context, who: Principal, before: Firing | None) -> list[Job]:
    """A failed job keeps its output for whoever resumes it; the one in its place needs that."""
    if before is None or before.job_id is None or before.job_state is not JobState.FAILED:
        return []
    with suppress(NotFound):  # It was forgotten meanwhile.
        return [firing.cancel_former(context, who, before.job_id)]
    return []
