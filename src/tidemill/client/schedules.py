"""Schedules of a service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Literal
from urllib.parse import quote

from pydantic import ValidationError

from tidemill.client import inputs
from tidemill.client.connection import Call, Connection, once
from tidemill.client.words import Words, parsed
from tidemill.domain.errors import InvalidSpec
from tidemill.wire.schedules import (
    AddSchedule,
    BackfillOut,
    BackfillRequest,
    CatchUpName,
    DueTimes,
    FiringOut,
    FiringPage,
    OverlapName,
    ScheduleOut,
    SchedulePage,
)
from tidemill.wire.spec import JobSpec


class Schedules:
    """`client.schedules`: jobs that come again. A schedule is named by its name or id.

    client.schedules.add("nightly", "churn@champion", "server:/lake/{{ due - 1d | date }}",
                         cron="0 2 * * *", timezone="Europe/Berlin")
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        name: str,
        model: Words | JobSpec | Mapping[str, Any],
        input: Words | Sequence[Words] | None = None,
        output: Words | None = None,
        *,
        cron: str | None = None,
        timezone: str = "UTC",
        every: str | None = None,
        on: Literal["new_files", "alias_moved"] | None = None,
        overlap: OverlapName = "skip",
        catch_up: CatchUpName = "last",
        paused: bool = False,
        idempotency_key: str | None = None,
        **spec: Any,
    ) -> ScheduleOut:
        """Add one: a trigger (`cron` with its time zone, or `every`: "6h") and the words of a job spec. With `on` it
        looks at these times, by default every minute, and there is a job only if that has happened.

        Its input and output are on the service's own disk: "server:/path". Raises InvalidSpec, NotFound, NotAllowed.
        """
        if on is not None and cron is None:
            every = every or "1m"
        if (cron is None) == (every is None):
            raise InvalidSpec("A schedule has one trigger.", remedy="Give either cron or every.")
        trigger: dict[str, Any] = {"kind": "interval", "every": every, "timezone": timezone}
        if cron is not None:
            trigger = {"kind": "cron", "cron": cron, "timezone": timezone}
        if on is not None:
            trigger = {"kind": on, "look": trigger}
        words = {"name": name, "spec": parsed(model, input, output, spec), "trigger": trigger}
        words |= {"overlap": overlap, "catch_up": catch_up, "paused": paused}
        return self.make(_checked(AddSchedule, words), idempotency_key=idempotency_key)

    def make(self, request: AddSchedule, *, idempotency_key: str | None = None) -> ScheduleOut:
        """The same from a whole request."""
        words = {**request.model_dump(mode="json"), "spec": _there(request.spec).model_dump(mode="json")}
        call = Call(method="POST", path="/schedules", body=words, headers=once(idempotency_key))
        return self._connection.ask(ScheduleOut, call)

    def get(self, schedule: str) -> ScheduleOut:
        """Raises NotFound."""
        return self._connection.ask(ScheduleOut, Call(method="GET", path=_path(schedule)))

    def list(self, *, page_size: int = 100) -> Iterator[ScheduleOut]:
        """By name; pages are fetched as they are needed."""
        query: dict[str, Any] = {"limit": page_size}
        while True:
            page = self._connection.ask(SchedulePage, Call(method="GET", path="/schedules", query=query))
            yield from page.items
            if page.next is None:
                return
            query["after"] = page.next

    def pause(self, schedule: str) -> ScheduleOut:
        """Nothing fires by itself from now on. Safe to repeat."""
        return self._connection.ask(ScheduleOut, Call(method="POST", path=_path(schedule, "pause")))

    def resume(self, schedule: str) -> ScheduleOut:
        """Fire again, from now on. Safe to repeat."""
        return self._connection.ask(ScheduleOut, Call(method="POST", path=_path(schedule, "resume")))

    def run(self, schedule: str, *, idempotency_key: str | None = None) -> FiringOut:
        """Fire now. Raises WrongState if the job before is not over and the policy is to skip."""
        call = Call(method="POST", path=_path(schedule, "run"), headers=once(idempotency_key))
        return self._connection.ask(FiringOut, call)

    def next(self, schedule: str, count: int = 10) -> DueTimes:
        """Due times to come, with the paths of their jobs."""
        return self._connection.ask(DueTimes, Call(method="GET", path=_path(schedule, "next"), query={"count": count}))

    def firings(self, schedule: str, *, page_size: int = 100) -> Iterator[FiringOut]:
        """What became of due times, the latest first."""
        query: dict[str, Any] = {"limit": page_size}
        while True:
            call = Call(method="GET", path=_path(schedule, "firings"), query=query)
            page = self._connection.ask(FiringPage, call)
            yield from page.items
            if page.next is None:
                return
            query["before"] = page.next

    def backfill(
        self,
        schedule: str,
        first: date,
        last: date,
        *,
        states: Sequence[Literal["missing", "failed", "done"]] = ("missing", "failed"),
        dry_run: bool = False,
    ) -> BackfillOut:
        """Start the due times of these days, in the schedule's time zone, that stand so. Safe to repeat."""
        words = {"first": first, "last": last, "states": list(states), "dry_run": dry_run}
        return self.fill(schedule, _checked(BackfillRequest, words))

    def fill(self, schedule: str, request: BackfillRequest) -> BackfillOut:
        """The same from a whole request."""
        body = request.model_dump(mode="json")
        return self._connection.ask(BackfillOut, Call(method="POST", path=_path(schedule, "backfill"), body=body))

    def remove(self, schedule: str) -> None:
        """Forget it; jobs that it started go on."""
        self._connection.tell(Call(method="DELETE", path=_path(schedule)))


def _path(schedule: str, verb: str = "") -> str:
    return f"/schedules/{quote(schedule, safe='')}{'/' if verb else ''}{verb}"


def _there(spec: JobSpec) -> JobSpec:
    """The spec in the service's words: nothing is sent, because it is read again and again."""
    routed = [_input_there(path) for path in spec.input.path]
    update: dict[str, Any] = {
        "model": inputs.model_there(spec.model),
        "input": spec.input.model_copy(update={"path": routed}),
    }
    if spec.output is not None:
        update["output"] = spec.output.model_copy(update={"path": inputs.output_there(spec.output.path)})
    return spec.model_copy(update=update)


def _input_there(path: str) -> str:
    there = inputs.found_there(path)
    if there is None:
        raise InvalidSpec(
            f"The input {path} is on this machine; a schedule reads its input anew each time.",
            remedy=f"Say {inputs.as_of_server(path)} for a path of the service's own disk.",
        )
    return there


def _checked(kind: Any, words: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate(words)
    except ValidationError as exc:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in exc.errors()]
        raise InvalidSpec(f"{'; '.join(faults[:3])}.", remedy="See the documentation of schedules.") from exc
