"""Triggers: the due times of a schedule, by clocks of a time zone or at an interval.

Pure: moments are given, never read from a clock. All moments are aware; due times are whole seconds, UTC.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tidemill.domain.errors import InvalidSpec

LONGEST_INTERVAL = timedelta(days=366)

_SHOWN_TWICE = timedelta(hours=3)
"""No zone puts its clocks back farther (Antarctica/Troll: 2 hours)."""
_DAY = timedelta(days=1)
"""No zone changes its clocks twice in that time."""
_MINUTE = timedelta(minutes=1)
_CRON_FIELDS = 5


class Trigger(ABC):
    """What makes a job due. A closed set: `trigger_of` reads what `to_json` wrote.

    Every trigger has due times. One that waits for something else to happen looks for it at these; then a firing's
    key is still (schedule, due time), and servers that look at once fire once.
    """

    kind: ClassVar[str]

    @abstractmethod
    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time later than `moment`; None if there is none any more."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """As plain data with its "kind"."""

    @abstractmethod
    def describe(self) -> str:
        """In words, for people."""

    @property
    def timezone(self) -> str:
        """The zone in which people read its due times."""
        return "UTC"

    def due_times(self, after: datetime) -> Iterator[datetime]:
        """Later than `after`, ascending."""
        moment = self.next_after(after)
        while moment is not None:
            yield moment
            moment = self.next_after(moment)

    def newest(self, first: datetime, until: datetime, most: int) -> tuple[datetime, ...]:
        """The newest due times in [first, until], at most so many, ascending.

        Looks back from `until` step by step, so it is quick also when `first` was years ago.
        """
        span = timedelta(hours=1)
        while True:
            start = max(first, until - span)
            found = []
            for due in self.due_times(start - timedelta(microseconds=1)):
                if due > until:
                    break
                found.append(due)
            if start == first or len(found) >= most:
                return tuple(found[-most:])
            span *= 4


@dataclass(frozen=True, kw_only=True)
class Cron(Trigger):
    """Five fields - minute, hour, day of month, month, day of week - against the clocks of a time zone.

    Where clocks are changed, it goes as with Debian's cron. If neither minute nor hour begins with `*`, the job is
    meant for a time of the day: once for each, a time that is left out at the first minute that exists, one that
    comes twice at the first. Otherwise it is meant for every so often: whenever clocks show a time that matches,
    twice if they show it twice, never if they do not.
    """

    kind: ClassVar[str] = "cron"
    expression: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Raises InvalidSpec."""
        check_zone(self.zone)
        if len(self.expression.split()) != _CRON_FIELDS:
            raise InvalidSpec(
                f"{self.expression!r} is no cron expression: it has {len(self.expression.split())} fields, not five.",
                remedy='Give minute, hour, day of month, month and day of week: "0 2 * * *" is daily at 02:00.',
            )
        try:
            self._wall_after(datetime(2000, 1, 1))
        except (CronSimError, StopIteration) as exc:
            raise InvalidSpec(
                f"{self.expression!r} is no cron expression that ever comes: {exc or 'no such day'}.",
                remedy="Fields are minute 0-59, hour 0-23, day of month 1-31, month 1-12, day of week 0-7 or SUN-SAT.",
            ) from exc

    @property
    def timezone(self) -> str:
        return self.zone

    def next_after(self, moment: datetime) -> datetime | None:
        after = moment.astimezone(UTC)
        try:
            return self._daily_after(after) if self._is_time_of_day else self._often_after(after)
        except (StopIteration, OverflowError):
            return None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "cron": self.expression, "timezone": self.zone}

    def describe(self) -> str:
        return f"cron {self.expression}, {self.zone}"

    @property
    def _is_time_of_day(self) -> bool:
        minute, hour = self.expression.split()[:2]
        return not (minute.startswith("*") or hour.startswith("*"))

    def _daily_after(self, after: datetime) -> datetime:
        wall = self._wall(after) - _SHOWN_TWICE
        while True:
            wall = self._wall_after(wall)
            due = self._first_shown(wall)
            if due > after:
                return due

    def _often_after(self, after: datetime) -> datetime:
        wall = self._wall(after)
        if self._offset(after) != self._offset(after + _DAY):
            change = self._change(after, after + _DAY)
            due = (self._wall_after(wall) - self._offset(after)).replace(tzinfo=UTC)
            if due < change:
                return due
            wall = self._wall(change) - _MINUTE
            return (self._wall_after(wall) - self._offset(change)).replace(tzinfo=UTC)
        while True:
            wall = self._wall_after(wall)
            if self._is_shown(wall):
                first = self._shown(wall, fold=0)
                return first if first > after else self._shown(wall, fold=1)

    def _wall_after(self, wall: datetime) -> datetime:
        """The next time of a clock that is never changed. That part alone is cronsim's: its own way with zones
        misses times where clocks are changed by half an hour."""
        return next(CronSim(self.expression, wall))

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None, fold=0)

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(ZoneInfo(self.zone)).utcoffset()
        assert offset is not None
        return offset

    def _is_shown(self, wall: datetime) -> bool:
        return self._wall(self._shown(wall, fold=0)) == wall

    def _shown(self, wall: datetime, *, fold: int) -> datetime:
        """When clocks show this time, the first or the second time that they do."""
        return wall.replace(tzinfo=ZoneInfo(self.zone), fold=fold).astimezone(UTC)

    def _first_shown(self, wall: datetime) -> datetime:
        """When clocks show this time, or the first minute after it that they show."""
        while not self._is_shown(wall):
            wall += _MINUTE
        return self._shown(wall, fold=0)

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The moment between the two at which clocks are changed, to the second."""
        while after - before > timedelta(seconds=1):
            middle = before + (after - before) / 2
            if self._offset(middle) == self._offset(before):
                before = middle
            else:
                after = middle
        return after.replace(microsecond=0)


@dataclass(frozen=True, kw_only=True)
class Interval(Trigger):
    """Every so many seconds from a moment on, whatever clocks on walls show."""

    kind: ClassVar[str] = "interval"
    every_seconds: int
    start: datetime
    """The first due time is this moment and one interval."""
    zone: str = "UTC"
    """Only for people and in templates."""

    def __post_init__(self) -> None:
        """Raises InvalidSpec."""
        check_zone(self.zone)
        if not 1 <= self.every_seconds <= LONGEST_INTERVAL.total_seconds():
            raise InvalidSpec(
                f"An interval of {self.every_seconds} seconds cannot be kept.",
                remedy=f"Give one between 1 second and {LONGEST_INTERVAL.days} days.",
            )

    @property
    def timezone(self) -> str:
        return self.zone

    def next_after(self, moment: datetime) -> datetime | None:
        every = timedelta(seconds=self.every_seconds)
        try:
            return self.start + max((moment - self.start) // every + 1, 1) * every
        except OverflowError:
            return None

    def to_json(self) -> dict[str, Any]:
        start = self.start.isoformat()
        return {"kind": self.kind, "every_seconds": self.every_seconds, "start": start, "timezone": self.zone}

    def describe(self) -> str:
        for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
            if self.every_seconds % seconds == 0:
                number = self.every_seconds // seconds
                return f"every {unit}" if number == 1 else f"every {number:,} {unit}s"
        return f"every {self.every_seconds:,} seconds" if self.every_seconds != 1 else "every second"


def trigger_of(data: dict[str, Any]) -> Trigger:
    """The trigger that `to_json` wrote."""
    match data["kind"]:
        case Cron.kind:
            return Cron(expression=data["cron"], zone=data["timezone"])
        case Interval.kind:
            start = datetime.fromisoformat(data["start"])
            return Interval(every_seconds=data["every_seconds"], start=start, zone=data["timezone"])
        case kind:
            raise ValueError(f"no trigger is called {kind!r}")


def check_zone(name: str) -> None:
    """Raise InvalidSpec if no time zone has this name."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as exc:
        raise InvalidSpec(
            f"There is no time zone {name!r}.", remedy="Give a name of the IANA database: Europe/Berlin, UTC, ..."
        ) from exc
