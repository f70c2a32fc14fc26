"""A service without workers on each kind of store, whose schedules tick when a test says so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.house import House, opened_house
from tests.postgres import given_database, given_postgres_url, postgres, postgres_database, postgres_url
from tidemill.domain.ids import new_id
from tidemill.domain.job import Job, Lease
from tidemill.domain.schedule import Firing, FiringState, Schedule
from tidemill.domain.trigger import Cron, Interval, Trigger
from tidemill.service import scheduler
from tidemill.service.context import Context

__all__ = ["given_database", "given_postgres_url", "postgres", "postgres_database", "postgres_url"]

T0 = datetime(2026, 11, 26, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
HOURLY = Cron(expression="0 * * * *", zone="Europe/Berlin")


class Timed(House):
    """A house with a clock of its own."""

    now = T0

    def __init__(self, context: Context, folder: Path) -> None:
        super().__init__(context, folder)
        self._leases: dict[str, Lease] = {}

    @classmethod
    def of(cls, house: House) -> Timed:
        return cls(house.context, house.folder)

    def schedule(self, name: str = "nightly", trigger: Trigger = HOURLY, **changes: Any) -> Schedule:
        """Add one by the store's own words, from now on."""
        spec = self.spec(**changes.pop("spec", {}))
        words: dict[str, Any] = {
            "id": new_id("sched"),
            "key_id": None,
            "created_by": "local",
            "created_at": self.now,
            "next_due": trigger.next_after(self.now),
            "checked_at": self.now,
            **changes,
        }
        schedule = Schedule(name=name, spec=spec.model_dump(mode="json"), trigger=trigger, **words)
        return self.context.store.schedules.add(schedule)[0]

    def tick(self, *, after: timedelta = timedelta(0), at: datetime | None = None) -> int:
        """What one look of a scheduler came to, some time later."""
        self.now = at if at is not None else self.now + after
        return scheduler.tick(self.context, self.now)

    def pass_time(self, how_long: timedelta, step: timedelta = 20 * SECOND) -> None:
        """A scheduler looks again and again."""
        end = self.now + how_long
        while self.now < end:
            self.tick(after=min(step, end - self.now))

    def firings(self, schedule: Schedule) -> list[Firing]:
        """Oldest first."""
        return self.context.store.firings.list(schedule.id, limit=5000)[::-1]

    def told(self, schedule: Schedule) -> list[tuple[str, str, str]]:
        """Due time, state and origin of each firing."""
        return [(f"{each.due:%d %H:%M}", each.state.value, each.origin.value) for each in self.firings(schedule)]

    def job(self, firing: Firing) -> Job:
        assert firing.job_id is not None
        return self.context.store.jobs.get(firing.job_id)

    def claim_of(self, job: Job) -> Lease:
        """The lease by which this process holds it."""
        return self._leases[job.id]

    def claim(self, job: Job) -> Lease:
        self._leases[job.id] = super().claim(job)
        return self._leases[job.id]

    def end_jobs(self, schedule: Schedule) -> None:
        """Every job of the schedule that is not over succeeds."""
        for firing in self.firings(schedule):
            if firing.is_active:
                self.finish(self.job(firing))


def every(seconds: int, start: datetime = T0) -> Interval:
    return Interval(every_seconds=seconds, start=start)


def states(firings: list[Firing]) -> list[FiringState]:
    return [firing.state for firing in firings]


@pytest.fixture(params=["sqlite", "postgres"])
def store_words(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings that name the store; with none it lies in the home folder."""
    return {} if request.param == "sqlite" else {"store": request.getfixturevalue("given_postgres_url")}


@pytest.fixture
def house(tmp_path: Path, store_words: dict[str, Any]) -> Iterator[Timed]:
    with opened_house(tmp_path, data_roots=[tmp_path / "data"], **store_words) as opened:
        opened.model(alias="champion")
        yield Timed.of(opened)
