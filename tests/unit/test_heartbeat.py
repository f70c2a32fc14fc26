"""Keeping a lease while the store answers, stutters, hangs, or has given the job to somebody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tidemill.domain.errors import LeaseLost, StoreUnavailable
from tidemill.domain.job import Lease, Want
from tidemill.engine.heartbeat import MARGIN, Heartbeat

LEASE = Lease(job_id="job_1", epoch=3, token="t")
LEASE_SECONDS = 0.6


class Renewals:
    """A store of which only renewals are asked; `answer` says what each comes to."""

    def __init__(self, answer: Callable[[int], dict[str, Want]]) -> None:
        self.answer, self.asked = answer, 0

    def renew_if_current(self, leases: Sequence[Lease], worker_id: str) -> dict[str, Want]:
        assert (list(leases), worker_id) == ([LEASE], "w")
        self.asked += 1
        return self.answer(self.asked)


def beating(answer: Callable[[int], dict[str, Want]], on_lost: Callable[[], None] = lambda: None) -> Any:
    store: Any = SimpleNamespace(jobs=Renewals(answer), lease_seconds=LEASE_SECONDS, heartbeat_seconds=0.1)
    return Heartbeat(store, LEASE, "w", on_lost)


def held(_: int) -> dict[str, Want]:
    return {LEASE.job_id: Want.RUN}


def away(_: int) -> dict[str, Want]:
    raise StoreUnavailable("it does not answer")


def test_tells_what_people_want() -> None:
    with beating(lambda n: {LEASE.job_id: Want.PAUSE if n > 2 else Want.RUN}) as beat:
        assert beat.want is Want.RUN
        _until(lambda: beat.want is Want.PAUSE)
        beat.check()
    assert not beat.lost


def test_a_job_of_somebody_else_is_lost_at_once_and_told_once() -> None:
    told: list[float] = []
    with beating(lambda n: {}, lambda: told.append(time.monotonic())) as beat:
        _until(lambda: beat.lost)
        with pytest.raises(LeaseLost):
            beat.check()
        time.sleep(LEASE_SECONDS)
    assert len(told) == 1


def test_a_short_silence_of_the_store_is_outlasted() -> None:
    def answer(n: int) -> dict[str, Want]:
        return away(n) if 1 < n < 4 else held(n)

    with beating(answer) as beat:
        _until(lambda: beat.store.jobs.asked >= 8)
        assert not beat.lost


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
def test_children_are_killed_before_the_lease_ends(hangs: bool) -> None:
    """Whether the store says no or says nothing at all."""
    lost_at: list[float] = []
    release = threading.Event()

    def answer(n: int) -> dict[str, Want]:
        if hangs:
            release.wait(10)
        return away(n)

    began = time.monotonic()
    with beating(answer, lambda: lost_at.append(time.monotonic())) as beat:
        _until(lambda: bool(lost_at))
        release.set()
        with pytest.raises(LeaseLost):
            beat.check()
    assert lost_at[0] - began >= LEASE_SECONDS * MARGIN * 0.9


def test_asks_again_until_the_store_answers() -> None:
    tries = []

    def ask() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise StoreUnavailable("not now")
        return "done"

    with beating(held) as beat:
        assert beat.while_ours(ask) == "done"
    assert len(tries) == 3


def test_gives_up_asking_with_the_lease() -> None:
    def ask() -> None:
        raise StoreUnavailable("never")

    with beating(away) as beat, pytest.raises(LeaseLost):
        beat.while_ours(ask)


def test_other_errors_are_not_tried_again() -> None:
    tries = []

    def ask() -> None:
        tries.append(1)
        raise ValueError("no")

    with beating(held) as beat, pytest.raises(ValueError):
        beat.while_ours(ask)
    assert len(tries) == 1


def _until(happened: Callable[[], bool], seconds: float = 10.0) -> None:
    stop = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.01)
