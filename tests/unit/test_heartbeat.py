"""Keeping a lease while the store answers, stutters, hangs, or has given the job to somebody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tidemill.domain.errors import LeaseLost, StoreUnavailable
from tidemill.domain.job import JobState, Lease, Want
from tidemill.engine.heartbeat import MARGIN, Heartbeat

LEASE = Lease(job_id="job_1", epoch=3, token="t")
LEASE_SECONDS = 10.0
BEAT_SECONDS = 1.0


class Clock:
    """Seconds that pass only while both threads of a heartbeat wait: then to the next end of a wait at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self._moved = threading.Condition()
        self._ends: dict[threading.Thread, tuple[threading.Event, float]] = {}

    def __call__(self) -> float:
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> None:
        """As `Event.wait`."""
        me, end = threading.current_thread(), self.now + seconds
        with self._moved:
            self._ends[me] = event, end
            while not event.is_set() and self.now < end:
                self._leap()
                self._moved.wait(0.005)
            del self._ends[me]

    def freeze(self, seconds: float) -> None:
        """So long nobody runs, and everybody wakes after it."""
        with self._moved:
            self.now += seconds
            self._moved.notify_all()

    def _leap(self) -> None:
        ends = [end for _, end in self._ends.values()]
        if len(ends) >= 2 and min(ends) > self.now and not any(event.is_set() for event, _ in self._ends.values()):
            self.now = min(ends)
            self._moved.notify_all()


class Renewals:
    """A store of which only renewals are asked; `answer` says what each comes to."""

    def __init__(self, answer: Callable[[int], dict[str, Want]]) -> None:
        self.answer, self.asked = answer, 0
        self.job = SimpleNamespace(epoch=LEASE.epoch + 1, state=JobState.RUNNING)

    def get(self, job_id: str) -> SimpleNamespace:
        assert job_id == LEASE.job_id
        return self.job

    def renew_if_current(self, leases: Sequence[Lease], worker_id: str) -> dict[str, Want]:
        assert (list(leases), worker_id) == ([LEASE], "w")
        self.asked += 1
        return self.answer(self.asked)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def beating(clock: Clock, answer: Callable[[int], dict[str, Want]], on_lost: Callable[[], None] = lambda: None) -> Any:
    store: Any = SimpleNamespace(jobs=Renewals(answer), lease_seconds=LEASE_SECONDS, heartbeat_seconds=BEAT_SECONDS)
    return Heartbeat(store, LEASE, "w", on_lost, clock=clock, wait=clock.wait)


def held(_: int) -> dict[str, Want]:
    return {LEASE.job_id: Want.RUN}


def away(_: int) -> dict[str, Want]:
    raise StoreUnavailable("it does not answer")


def test_tells_what_people_want(clock: Clock) -> None:
    wanted = [Want.RUN]
    with beating(clock, lambda _: {LEASE.job_id: wanted[0]}) as beat:
        _until(lambda: beat.store.jobs.asked > 2)
        assert beat.want is Want.RUN
        wanted[0] = Want.PAUSE
        _until(lambda: beat.want is Want.PAUSE)
        beat.check()
    assert not beat.lost


def test_a_job_of_somebody_else_is_lost_at_once_and_told_once(clock: Clock) -> None:
    told: list[float] = []
    with beating(clock, lambda _: {}, lambda: told.append(clock())) as beat:
        _until(lambda: beat.lost)
        with pytest.raises(LeaseLost):
            beat.check()
        _until(lambda: not any(thread.is_alive() for thread in beat._threads))
    assert told == [BEAT_SECONDS]


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.QUEUED, JobState.PAUSED])
def test_a_job_that_this_worker_itself_let_go_is_not_lost(clock: Clock, state: JobState) -> None:
    """The store knows that it ended, was handed over or came to rest before the heartbeat was told to stop."""
    told: list[float] = []
    beat = beating(clock, lambda _: {}, lambda: told.append(clock()))
    beat.store.jobs.job = SimpleNamespace(epoch=LEASE.epoch, state=state)
    with beat:
        _until(lambda: beat.store.jobs.asked == 1)
        beat.check()
    assert not beat.lost
    assert told == []


def test_a_silence_that_is_shorter_than_the_lease_is_outlasted(clock: Clock) -> None:
    silent = range(2, 7)

    def answer(n: int) -> dict[str, Want]:
        return away(n) if n in silent else held(n)

    with beating(clock, answer) as beat:
        _until(lambda: beat.store.jobs.asked >= 12)
        assert not beat.lost


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
def test_children_are_killed_before_the_lease_ends(clock: Clock, hangs: bool) -> None:
    """Whether the store says no or says nothing at all."""
    lost_at: list[float] = []
    release = threading.Event()

    def answer(n: int) -> dict[str, Want]:
        if hangs:
            clock.wait(release, 10 * LEASE_SECONDS)
        return away(n)

    with beating(clock, answer, lambda: lost_at.append(clock())) as beat:
        _until(lambda: bool(lost_at))
        release.set()
        with pytest.raises(LeaseLost):
            beat.check()
    assert len(lost_at) == 1
    assert LEASE_SECONDS * MARGIN <= lost_at[0] < LEASE_SECONDS


@pytest.mark.parametrize("taken", [False, True], ids=["nobody took it", "somebody took it"])
def test_who_was_frozen_for_longer_than_the_lease_asks_once_more(clock: Clock, taken: bool) -> None:
    lost: list[bool] = []
    frozen, over = threading.Event(), threading.Event()

    def answer(n: int) -> dict[str, Want]:
        if not frozen.is_set():
            return held(n)
        clock.wait(over, LEASE_SECONDS / 20)
        return {} if taken else held(n)

    with beating(clock, answer, lambda: lost.append(True)) as beat:
        _until(lambda: beat.store.jobs.asked > 2)
        frozen.set()
        clock.freeze(10 * LEASE_SECONDS)
        asked = beat.store.jobs.asked
        _until(lambda: beat.lost if taken else beat.store.jobs.asked > asked + 2)
        assert beat.lost is taken
        over.set()
    assert lost == [True] * taken


def test_asks_again_until_the_store_answers(clock: Clock) -> None:
    tries = []

    def ask() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise StoreUnavailable("not now")
        return "done"

    with beating(clock, held) as beat:
        assert beat.while_ours(ask) == "done"
    assert len(tries) == 3


def test_gives_up_asking_with_the_lease(clock: Clock) -> None:
    def ask() -> None:
        raise StoreUnavailable("never")

    with beating(clock, away) as beat, pytest.raises(LeaseLost):
        beat.while_ours(ask)


def test_other_errors_are_not_tried_again(clock: Clock) -> None:
    tries = []

    def ask() -> None:
        tries.append(1)
        raise ValueError("no")

    with beating(clock, held) as beat, pytest.raises(ValueError):
        beat.while_ours(ask)
    assert len(tries) == 1


def _until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    stop = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.01)
