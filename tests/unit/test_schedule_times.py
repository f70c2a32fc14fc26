"""When a trigger is due: golden lists for the changes of clocks, and the same by looking at every minute."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.errors import InvalidSpec
from tidemill.domain.trigger import Cron, Interval, Trigger, trigger_of

MINUTE = timedelta(minutes=1)


def dues(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next due times after a moment of that zone, as its clocks show them."""
    cron = Cron(expression=expression, zone=zone)
    start = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    return [
        due.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes") for due in islice(cron.due_times(start), count)
    ]


GOLDEN = {
    # New York: 2026-03-08 02:00 -> 03:00, 2026-11-01 02:00 -> 01:00
    ("30 2 * * *", "America/New_York", "2026-03-07T00:00"): [
        *("2026-03-07T02:30-05:00", "2026-03-08T03:00-04:00", "2026-03-09T02:30-04:00"),
    ],
    ("0,30 2,3 * * *", "America/New_York", "2026-03-08T00:00"): [
        *("2026-03-08T03:00-04:00", "2026-03-08T03:30-04:00", "2026-03-09T02:00-04:00"),
    ],
    ("*/30 * * * *", "America/New_York", "2026-03-08T01:00"): [
        *("2026-03-08T01:30-05:00", "2026-03-08T03:00-04:00", "2026-03-08T03:30-04:00", "2026-03-08T04:00-04:00"),
    ],
    ("30 1 * * *", "America/New_York", "2026-10-31T00:00"): [
        *("2026-10-31T01:30-04:00", "2026-11-01T01:30-04:00", "2026-11-02T01:30-05:00"),
    ],
    ("*/30 * * * *", "America/New_York", "2026-11-01T00:30"): [
        *("2026-11-01T01:00-04:00", "2026-11-01T01:30-04:00", "2026-11-01T01:00-05:00", "2026-11-01T01:30-05:00"),
        "2026-11-01T02:00-05:00",
    ],
    ("30 * * * *", "America/New_York", "2026-11-01T00:00"): [
        *("2026-11-01T00:30-04:00", "2026-11-01T01:30-04:00", "2026-11-01T01:30-05:00", "2026-11-01T02:30-05:00"),
    ],
    # Lord Howe changes by half an hour: 2026-04-05 02:00 -> 01:30, 2026-10-04 02:00 -> 02:30
    ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00"): [
        *("2026-04-04T01:45+11:00", "2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"),
    ],
    ("*/15 * * * *", "Australia/Lord_Howe", "2026-04-05T01:15"): [
        *("2026-04-05T01:30+11:00", "2026-04-05T01:45+11:00", "2026-04-05T01:30+10:30", "2026-04-05T01:45+10:30"),
        "2026-04-05T02:00+10:30",
    ],
    ("30 * * * *", "Australia/Lord_Howe", "2026-04-05T00:00"): [
        *("2026-04-05T00:30+11:00", "2026-04-05T01:30+11:00", "2026-04-05T01:30+10:30", "2026-04-05T02:30+10:30"),
    ],
    ("0 */2 * * *", "Australia/Lord_Howe", "2026-04-04T23:00"): [
        *("2026-04-05T00:00+11:00", "2026-04-05T02:00+10:30", "2026-04-05T04:00+10:30"),
    ],
    ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00"): [
        *("2026-10-03T02:15+10:30", "2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"),
    ],
    ("30 * * * *", "Australia/Lord_Howe", "2026-10-04T00:00"): [
        *("2026-10-04T00:30+10:30", "2026-10-04T01:30+10:30", "2026-10-04T02:30+11:00", "2026-10-04T03:30+11:00"),
    ],
    # Cairo leaves midnight out: 2026-04-24 00:00 -> 01:00, 2026-10-30 00:00 -> 2026-10-29 23:00
    ("0 0 * * *", "Africa/Cairo", "2026-04-22T12:00"): [
        *("2026-04-23T00:00+02:00", "2026-04-24T01:00+03:00", "2026-04-25T00:00+03:00"),
    ],
    ("0 0 * * FRI", "Africa/Cairo", "2026-04-17T12:00"): ["2026-04-24T01:00+03:00", "2026-05-01T00:00+03:00"],
    ("*/20 * * * FRI", "Africa/Cairo", "2026-04-23T12:00"): ["2026-04-24T01:00+03:00", "2026-04-24T01:20+03:00"],
    ("0 * * * *", "Africa/Cairo", "2026-04-23T22:30"): [
        *("2026-04-23T23:00+02:00", "2026-04-24T01:00+03:00", "2026-04-24T02:00+03:00"),
    ],
    ("0 0 * * *", "Africa/Cairo", "2026-10-28T12:00"): [
        *("2026-10-29T00:00+03:00", "2026-10-30T00:00+02:00", "2026-10-31T00:00+02:00"),
    ],
    ("30 23 * * *", "Africa/Cairo", "2026-10-28T12:00"): [
        *("2026-10-28T23:30+03:00", "2026-10-29T23:30+03:00", "2026-10-30T23:30+02:00"),
    ],
    ("30 * * * *", "Africa/Cairo", "2026-10-29T22:00"): [
        *("2026-10-29T22:30+03:00", "2026-10-29T23:30+03:00", "2026-10-29T23:30+02:00", "2026-10-30T00:30+02:00"),
    ],
    # Kolkata never changes, and is half an hour off
    ("0 2 * * *", "Asia/Kolkata", "2026-03-07T00:00"): [
        *("2026-03-07T02:00+05:30", "2026-03-08T02:00+05:30", "2026-03-09T02:00+05:30"),
    ],
    ("*/30 * * * *", "Asia/Kolkata", "2026-11-01T01:10"): ["2026-11-01T01:30+05:30", "2026-11-01T02:00+05:30"],
    ("0 2 * * *", "Europe/Berlin", "2026-03-28T00:00"): [
        *("2026-03-28T02:00+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"),
    ],
    ("0 2 * * *", "Europe/Berlin", "2026-10-24T00:00"): [
        *("2026-10-24T02:00+02:00", "2026-10-25T02:00+02:00", "2026-10-26T02:00+01:00"),
    ],
    # Days
    ("0 12 29 2 *", "UTC", "2026-01-01T00:00"): ["2028-02-29T12:00+00:00", "2032-02-29T12:00+00:00"],
    ("0 6 L * *", "UTC", "2026-01-31T07:00"): ["2026-02-28T06:00+00:00", "2026-03-31T06:00+00:00"],
}


@pytest.mark.parametrize(("case", "expected"), GOLDEN.items(), ids=lambda value: " ".join(value[:2]))
def test_golden(case: tuple[str, str, str], expected: list[str]) -> None:
    assert dues(*case, len(expected)) == expected


CHANGES = [
    *(("America/New_York", "2026-03-08T07:00"), ("America/New_York", "2026-11-01T06:00")),
    *(("Australia/Lord_Howe", "2026-04-04T15:00"), ("Australia/Lord_Howe", "2026-10-03T15:30")),
    *(("Africa/Cairo", "2026-04-23T22:00"), ("Africa/Cairo", "2026-10-29T21:00")),
    *(("Asia/Kolkata", "2026-03-08T07:00"), ("Antarctica/Troll", "2026-03-29T01:00")),
    *(
        ("Antarctica/Troll", "2026-10-25T01:00"),
        ("Pacific/Apia", "2011-12-30T10:00"),
        ("Europe/Dublin", "2026-10-25T01:00"),
    ),
]

EVERY = range(60)
MINUTES = {
    "0": [0],
    "30": [30],
    "15": [15],
    "45": [45],
    "59": [59],
    "0,30": [0, 30],
    "5-10": range(5, 11),
    "*": EVERY,
    "*/15": EVERY[::15],
    "*/20": EVERY[::20],
}
HOURS = {
    "0": [0],
    "1": [1],
    "2": [2],
    "23": [23],
    "1-3": [1, 2, 3],
    "0,12": [0, 12],
    "*": range(24),
    "*/2": range(0, 24, 2),
    "*/6": range(0, 24, 6),
}
DAYS: dict[str, Callable[[datetime], bool]] = {
    "* * *": lambda wall: True,
    "* * FRI": lambda wall: wall.isoweekday() == 5,
    "* * 0": lambda wall: wall.isoweekday() == 7,
    "1,30 * *": lambda wall: wall.day in (1, 30),
    "* 4,10,11 *": lambda wall: wall.month in (4, 10, 11),
}


@given(
    change=st.sampled_from(CHANGES),
    minute=st.sampled_from(list(MINUTES)),
    hour=st.sampled_from(list(HOURS)),
    days=st.sampled_from(list(DAYS)),
)
@settings(max_examples=150, deadline=None)
def test_as_by_looking_at_every_minute(change: tuple[str, str], minute: str, hour: str, days: str) -> None:
    zone, around = change
    cron = Cron(expression=f"{minute} {hour} {days}", zone=zone)
    middle = datetime.fromisoformat(around).replace(tzinfo=UTC)
    first, last = middle - timedelta(hours=7), middle + timedelta(hours=7)

    def matches(wall: datetime) -> bool:
        return wall.minute in MINUTES[minute] and wall.hour in HOURS[hour] and DAYS[days](wall)

    often = minute.startswith("*") or hour.startswith("*")
    assert list(cron.newest(first, last, 10_000)) == _looked_at(ZoneInfo(zone), matches, first, last, often=often)


def _looked_at(
    zone: ZoneInfo, matches: Callable[[datetime], bool], first: datetime, last: datetime, *, often: bool
) -> list[datetime]:
    """Every minute at which clocks show a time that matches; a time of day once, or when it was left out."""
    found, shown = [], set()
    moment = first - timedelta(hours=3)
    before = moment.astimezone(zone).replace(tzinfo=None)
    while moment <= last:
        wall = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        left_out = [before + step * MINUTE for step in range(1, (wall - before) // MINUTE)]
        if any(matches(each) for each in ([wall] if often else [*left_out, wall]) if often or each not in shown):
            found.append(moment)
        shown.update([*left_out, wall])
        moment, before = moment + MINUTE, wall
    return [due for due in found if due >= first]


@given(
    every=st.integers(1, 366 * 86400),
    seconds=st.integers(-(10**9), 10**9),
    start=st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)),
)
def test_an_interval_is_a_grid(every: int, seconds: int, start: datetime) -> None:
    interval = Interval(every_seconds=every, start=start.replace(tzinfo=UTC))
    moment = interval.start + timedelta(seconds=seconds)
    due = interval.next_after(moment)
    assert due is not None
    steps, rest = divmod(due - interval.start, timedelta(seconds=every))
    assert rest == timedelta(0) and steps >= 1
    assert due > moment
    assert due - timedelta(seconds=every) <= max(moment, interval.start)


@given(days=st.integers(0, 4000), most=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_the_newest_are_those_at_the_end(days: int, most: int) -> None:
    cron = Cron(expression="7 */3 * * 1-5", zone="America/New_York")
    until = datetime(2026, 11, 1, 12, tzinfo=UTC)
    first = until - timedelta(days=days)
    near = max(first, until - timedelta(days=30))
    expected = _until(cron, near, until)[-most:]
    assert list(cron.newest(first, until, most)) == expected


def _until(trigger: Trigger, first: datetime, until: datetime) -> list[datetime]:
    found = []
    for due in trigger.due_times(first - timedelta(microseconds=1)):
        if due > until:
            return found
        found.append(due)
    return found


def test_years_of_minutes_are_looked_at_from_the_end() -> None:
    steps = 0

    class Counted(Interval):
        def next_after(self, moment: datetime) -> datetime | None:
            nonlocal steps
            steps += 1
            return super().next_after(moment)

    now = datetime(2026, 11, 1, tzinfo=UTC)
    minutely = Counted(every_seconds=60, start=datetime(1990, 1, 1, tzinfo=UTC))
    assert minutely.newest(minutely.start, now, 3) == (now - 2 * MINUTE, now - MINUTE, now)
    assert steps < 100


NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "trigger",
    [
        Cron(expression="0 2 * * *", zone="Europe/Berlin"),
        Interval(every_seconds=90, start=NEW_YEAR, zone="Asia/Kolkata"),
    ],
)
def test_a_trigger_is_kept_as_json(trigger: Trigger) -> None:
    assert trigger_of(trigger.to_json()) == trigger


def test_an_unknown_kind_is_a_defect() -> None:
    with pytest.raises(ValueError, match="moon"):
        trigger_of({"kind": "moon"})


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("0 2 * *", "4 fields"),
        ("0 0 2 * * *", "6 fields"),
        ("@daily", "1 fields"),
        ("61 2 * * *", "Bad minute"),
        ("0 2 30 2 *", "Bad day-of-month"),
        ("a b c d e", "Bad"),
    ],
)
def test_what_is_no_cron_expression(expression: str, said: str) -> None:
    with pytest.raises(InvalidSpec, match=said) as caught:
        Cron(expression=expression)
    assert caught.value.remedy


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "../etc/passwd", "/etc/localtime", "CET\0", "Europe"])
def test_what_is_no_zone(zone: str) -> None:
    with pytest.raises(InvalidSpec, match="no time zone"):
        Cron(expression="0 2 * * *", zone=zone)


@pytest.mark.parametrize("seconds", [0, -5, 367 * 86400])
def test_what_is_no_interval(seconds: int) -> None:
    with pytest.raises(InvalidSpec, match="cannot be kept"):
        Interval(every_seconds=seconds, start=NEW_YEAR)


def test_the_end_of_all_dates() -> None:
    last = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    assert Interval(every_seconds=60, start=NEW_YEAR).next_after(last) is None
    assert Cron(expression="0 2 * * *", zone="Europe/Berlin").next_after(last) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1, "every second"),
        (90, "every 90 seconds"),
        (60, "every minute"),
        (21600, "every 6 hours"),
        (86400, "every day"),
    ],
)
def test_an_interval_in_words(seconds: int, said: str) -> None:
    assert Interval(every_seconds=seconds, start=NEW_YEAR).describe() == said
