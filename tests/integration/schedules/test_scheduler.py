"""The thread that ticks: by its clock, through outages, past defects, until it is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.integration.schedules.conftest import HOUR, Timed, every
from tidemill.bootstrap import server
from tidemill.cli.main import app
from tidemill.domain.errors import StoreUnavailable
from tidemill.domain.schedule import FiringState
from tidemill.service import scheduler, submission
from tidemill.service.scheduler import Scheduler
from tidemill.telemetry import logs

MOST_SECONDS = 30.0


def wait_until(done: Callable[[], bool]) -> None:
    stop = time.monotonic() + MOST_SECONDS
    while not done():
        assert time.monotonic() < stop
        time.sleep(0.01)


def test_it_fires_by_its_clock_until_it_is_stopped(house: Timed) -> None:
    schedule = house.schedule(trigger=every(3600))
    moment = [house.now]
    ticking = Scheduler(house.context, clock=lambda: moment[0], tick_seconds=0.01)
    ticking.start()
    try:
        moment[0] += HOUR
        wait_until(lambda: len(house.firings(schedule)) == 1)
        moment[0] += HOUR
        wait_until(lambda: len(house.firings(schedule)) == 2)
    finally:
        ticking.stop(MOST_SECONDS)
        ticking.stop(MOST_SECONDS)
    moment[0] += HOUR
    time.sleep(0.05)
    assert len(house.firings(schedule)) == 2


def test_by_default_it_goes_by_the_database(house: Timed) -> None:
    now = house.context.store.schedules.now()
    schedule = house.schedule(trigger=every(3600, now - 2 * HOUR), next_due=now - HOUR, checked_at=now - 2 * HOUR)
    ticking = Scheduler(house.context, tick_seconds=0.01)
    ticking.start()
    wait_until(lambda: bool(house.firings(schedule)))
    ticking.stop(MOST_SECONDS)


def test_it_goes_on_when_the_store_answers_again(
    house: Timed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away, back = threading.Event(), threading.Event()

    def tick(*words: Any) -> int:
        if not back.is_set():
            away.set()
            raise StoreUnavailable("It is away.")
        return 0

    monkeypatch.setattr(scheduler, "tick", tick)
    caplog.set_level(logging.INFO)
    ticking = Scheduler(house.context, tick_seconds=0.01)
    ticking.start()
    assert away.wait(MOST_SECONDS)
    back.set()
    wait_until(lambda: "schedules fire" in caplog.text)
    ticking.stop(MOST_SECONDS)
    assert caplog.text.count("It is away.") == 1


def test_an_outage_in_the_middle_leaves_the_rest_for_later(house: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = house.schedule(trigger=every(3600))

    def away(*words: Any) -> Any:
        raise StoreUnavailable("It is away.")

    with monkeypatch.context() as patch:
        patch.setattr(submission, "new_job", away)
        with pytest.raises(StoreUnavailable):
            house.tick(after=HOUR)
    assert house.firings(schedule) == []
    house.tick()
    assert [each.state for each in house.firings(schedule)] == [FiringState.STARTED]


def test_a_defect_of_one_is_its_own(
    house: Timed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, fine = (house.schedule(name, trigger=every(3600)) for name in ("broken", "fine"))
    before = submission.new_job

    def new_job(context: Any, who: Any, spec: Any) -> Any:
        if spec.name == "broken":
            raise RuntimeError("a defect")
        return before(context, who, spec)

    monkeypatch.setattr(submission, "new_job", new_job)
    house.tick(after=HOUR)
    assert house.firings(broken) == []
    assert len(house.firings(fine)) == 1
    assert broken.id in caplog.text and "a defect" in caplog.text


def test_a_server_may_leave_schedules_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def serve(app: Any, serving: server.Serving) -> None:
        serving.ready("http://127.0.0.1:0")
        seen.append("scheduler" in {thread.name for thread in threading.enumerate()})

    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(logs, "configure", lambda **words: None)
    for options in ([], ["--no-schedules"]):
        done = CliRunner().invoke(app, ["serve", "--no-jobs", *options])
        assert done.exit_code == 0, done.output
    assert seen == [True, False]
    assert "scheduler" not in {thread.name for thread in threading.enumerate()}
