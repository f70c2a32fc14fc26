"""Schedules that wait for new files or for an alias to move."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.series.lake import WHO, Lake, ended, scores, submit, until_planned, working
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.errors import InvalidSpec, NothingNew
from tidemill.domain.job import Job, JobState, Want
from tidemill.domain.schedule import Firing, FiringState, Schedule
from tidemill.service import models, scheduler, schedules, series
from tidemill.service.context import Context
from tidemill.testing.store import new_version
from tidemill.wire.schedules import AddSchedule

MINUTE = timedelta(minutes=1)
ON_NEW_FILES = {"kind": "new_files", "look": {"kind": "interval", "every": "1m"}}
ON_ALIAS = {"kind": "alias_moved", "look": {"kind": "interval", "every": "1m"}}


@dataclass(kw_only=True)
class Watched:
    """A schedule of a service, and a clock that a test moves."""

    context: Context
    now: datetime
    name: str = "arriving"

    def add(self, spec: Any, trigger: dict[str, Any] = ON_NEW_FILES, **words: Any) -> Schedule:
        wanted = AddSchedule.model_validate({"name": self.name, "spec": spec, "trigger": trigger, **words})
        return schedules.add(self.context, WHO, wanted)[0]

    def look(self) -> int:
        """A minute later."""
        self.now += MINUTE
        return scheduler.tick(self.context, self.now)

    def firings(self) -> list[Firing]:
        """Oldest first."""
        found = self.context.store.schedules.get(WHO.tenant, self.name)
        return self.context.store.firings.list(found.id)[::-1]

    def job(self) -> Job:
        """Of the newest firing, when it rests."""
        newest = self.firings()[-1]
        assert newest.job_id is not None, newest.reason
        return ended(self.context, self.context.store.jobs.get(newest.job_id))


@contextmanager
def watching(lake: Lake, store: str | None) -> Iterator[Watched]:
    with working(lake, store) as context:
        yield Watched(context=context, now=datetime.now(UTC) + MINUTE)


def spec_of(lake: Lake, output: str = "all", mode: str = "append", **words: Any) -> dict[str, Any]:
    return lake.spec(output, mode=mode, **words).model_dump(mode="json")


def test_new_files_are_scored_as_they_come(lake: Lake, store: str | None) -> None:
    with watching(lake, store) as watched:
        watched.add(spec_of(lake))
        assert watched.look() == 0
        lake.write("a.parquet")
        lake.write("b.parquet")
        assert watched.look() == 1
        assert watched.job().state is JobState.SUCCEEDED
        assert [watched.look() for _ in range(3)] == [0, 0, 0]
        lake.write("c.parquet")
        (lake.input / "a.parquet").unlink()
        assert watched.look() == 1
        assert watched.job().state is JobState.SUCCEEDED
        assert watched.look() == 0
        assert series.forget(watched.context, WHO, "lake", below=str(lake.input / "c.parquet")) == 1
        assert watched.look() == 1
        assert watched.job().state is JobState.SUCCEEDED
        assert [each.state for each in watched.firings()] == [FiringState.STARTED] * 3
    assert lake.scored("all") == {("a.parquet", 1): 1, ("b.parquet", 1): 1, ("c.parquet", 1): 2}


def test_a_set_of_files_fires_once_also_if_its_job_failed(lake: Lake) -> None:
    refuse = lake.folder / "refuse"
    refuse.touch()
    with watching(lake, None) as watched:
        watched.add(spec_of(lake, predict={"options": {"refuse": str(refuse)}}))
        lake.write("a.parquet")
        assert watched.look() == 1
        failed = watched.job()
        assert failed.state is JobState.FAILED
        assert [watched.look() for _ in range(3)] == [0, 0, 0]
        refuse.unlink()
        lake.write("b.parquet")
        assert watched.look() == 1
        assert watched.job().state is JobState.SUCCEEDED
        assert watched.context.store.jobs.get(failed.id).state is JobState.CANCELLED, "its work was done by another"
        assert watched.look() == 0
    assert lake.scored("all") == {("a.parquet", 1): 1, ("b.parquet", 1): 1}


def test_while_a_job_is_on_its_way_nothing_fires(lake: Lake) -> None:
    """Its own, or one of the same series that somebody submitted."""
    gate = lake.folder / "gate"
    options = {"predict": {"options": {"gate": str(gate)}}}
    with watching(lake, None) as watched:
        watched.add(spec_of(lake, **options))
        lake.write("a.parquet")
        assert watched.look() == 1
        until_planned(watched.context, str(watched.firings()[-1].job_id))
        lake.write("b.parquet")
        assert [watched.look() for _ in range(3)] == [0, 0, 0]
        gate.touch()
        assert watched.job().state is JobState.SUCCEEDED
        gate.unlink()
        other = submit(watched.context, lake.spec("other", **options))
        until_planned(watched.context, other.id)
        lake.write("c.parquet")
        assert [watched.look() for _ in range(3)] == [0, 0, 0]
        gate.touch()
        assert ended(watched.context, other).state is JobState.SUCCEEDED
        assert watched.look() == 1
        assert watched.job().state is JobState.SUCCEEDED
        assert len(watched.firings()) == 2
    assert lake.scored("all", "other") == {(f"{name}.parquet", 1): 1 for name in "abc"}


def test_servers_that_look_at_once_fire_once(lake: Lake, store: str | None) -> None:
    with watching(lake, store) as watched:
        watched.add(spec_of(lake))
        lake.write("a.parquet")
        home = Settings(home=lake.folder / "home", store=store, cores=2)
        with opened(home, children=False) as second, opened(home, children=False) as third:
            servers = [watched.context, second, third]
            ready = threading.Barrier(len(servers))

            def tick(context: Context) -> int:
                ready.wait()
                return scheduler.tick(context, watched.now + MINUTE)

            with ThreadPoolExecutor(len(servers)) as pool:
                assert sum(pool.map(tick, servers)) == 1
        assert watched.job().state is JobState.SUCCEEDED
        assert len(watched.firings()) == 1
    assert lake.scored("all") == {("a.parquet", 1): 1}


def test_what_cannot_be_is_told_once_and_tried_again(lake: Lake) -> None:
    with watching(lake, None) as watched:
        watched.add(spec_of(lake))
        lake.write("a.parquet")
        assert watched.look() == 1
        assert watched.job().state is JobState.SUCCEEDED
        lake.write("a.parquet", 2)
        assert [watched.look() for _ in range(3)] == [1, 0, 0]
        refused = watched.firings()[-1]
        assert (refused.state, (refused.reason or {})["code"]) == (FiringState.REFUSED, "already_scored")
        lake.write("a.parquet", 3)
        lake.input.rename(lake.folder / "away")
        assert [watched.look() for _ in range(3)] == [1, 0, 0]
        refused = watched.firings()[-1]
        assert (refused.state, (refused.reason or {})["code"]) == (FiringState.REFUSED, "not_found")
        (lake.folder / "away").rename(lake.input)
        (lake.input / "a.parquet").unlink()
        lake.write("b.parquet")
        assert watched.look() == 1
        assert watched.job().state is JobState.SUCCEEDED
    assert lake.scored("all") == {("a.parquet", 1): 1, ("b.parquet", 1): 1}


def test_the_series_of_a_schedule_is_named_like_it_and_lets_files_settle(lake: Lake) -> None:
    with watching(lake, None) as watched:
        spec = spec_of(lake)
        spec["input"]["series"] = None
        stored = watched.add(spec)
        assert stored.spec["input"]["series"] == {"name": "arriving", "settle": "1m", "changed": "auto"}
        lake.write("young.parquet")
        assert watched.look() == 0
        lake.write("old.parquet", at=datetime.now().timestamp() - 3600)
        assert watched.look() == 1
        job = watched.job()
        assert job.plan is not None
        assert (job.plan["files"], job.plan["increment"]["unsettled"]) == (1, 1)
        assert series.get(watched.context, WHO, "arriving").files == 1


def test_a_plain_schedule_of_a_series_says_that_nothing_is_new(lake: Lake) -> None:
    with watching(lake, None) as watched:
        watched.add(spec_of(lake), {"kind": "interval", "every": "1m"})
        lake.write("a.parquet")
        assert watched.look() == 1
        assert watched.job().state is JobState.SUCCEEDED
        assert watched.look() == 1
        skipped = watched.firings()[-1]
        assert (skipped.state, (skipped.reason or {})["code"]) == (FiringState.SKIPPED, NothingNew.code)
        with pytest.raises(NothingNew):
            schedules.run(watched.context, WHO, "arriving")


def test_an_alias_that_moved_fires_once(lake: Lake, store: str | None) -> None:
    lake.write("a.parquet")
    with opened(Settings(home=lake.folder / "home", store=store), children=False) as context:
        for digest in ("1", "2", "3"):
            context.store.models.add_version(new_version(digest=digest * 64, carries_code=False))
        move = lambda version: models.move_alias(context, WHO, "churn", "champion", version)  # noqa: E731
        move(1)
        watched = Watched(context=context, now=datetime.now(UTC) + MINUTE)
        spec = {
            "model": "churn@champion",
            "input": {"path": [str(lake.input)]},
            "output": {"path": f"{lake.folder}/" + '{{ due | date("%H%M") }}/scores'},
        }
        watched.add(spec, ON_ALIAS)
        assert [watched.look() for _ in range(2)] == [0, 0]
        move(2)
        assert [watched.look() for _ in range(2)] == [1, 0]
        first = context.store.jobs.get(str(watched.firings()[-1].job_id))
        assert (first.model and first.model.version) == 2
        move(3)
        assert watched.look() == 0, "its job is on its way"
        context.store.jobs.wish(first.id, Want.CANCEL)
        assert [watched.look() for _ in range(2)] == [1, 0]
        second = context.store.jobs.get(str(watched.firings()[-1].job_id))
        assert (second.model and second.model.version) == 3
        context.store.jobs.wish(second.id, Want.CANCEL)
        move(1)
        move(3)
        assert watched.look() == 0, "where it points when it is looked at counts"
        move(1)
        assert watched.look() == 1
        models.remove_alias(context, WHO, "churn", "champion")
        context.store.jobs.wish(str(watched.firings()[-1].job_id), Want.CANCEL)
        assert [watched.look() for _ in range(2)] == [1, 0]
        assert watched.firings()[-1].state is FiringState.REFUSED
        models.move_alias(context, WHO, "churn", "champion", 1)
        assert watched.look() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"overlap": "queue"}, "waits for new files cannot queue what overlaps"),
        ({"trigger": ON_ALIAS}, "is no alias of a registered model"),
    ],
)
def test_what_makes_no_sense_is_refused(lake: Lake, words: dict[str, Any], said: str) -> None:
    with opened(Settings(home=lake.folder / "home"), children=False) as context:
        watched = Watched(context=context, now=datetime.now(UTC))
        with pytest.raises(InvalidSpec, match=said):
            watched.add(spec_of(lake), **{"trigger": ON_NEW_FILES, **words})


def test_a_job_of_the_series_beside_the_schedule(lake: Lake) -> None:
    with watching(lake, None) as watched:
        watched.add(spec_of(lake))
        lake.write("a.parquet")
        scores(watched.context, lake.spec("all", mode="append"))
        assert watched.look() == 0
    assert lake.scored("all") == {("a.parquet", 1): 1}
