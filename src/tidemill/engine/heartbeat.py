"""Keeping a lease: one thread renews it, another watches the clock; neither does anything else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from tidemill.domain.errors import LeaseLost, StoreUnavailable, StoreUnusable, TidemillError
from tidemill.domain.job import LEASED, Lease, Want
from tidemill.ports.store import Store

log = logging.getLogger(__name__)

MARGIN = 0.8
"""After this share of the lease without a renewal the children are killed: before it can be taken."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
JOIN_SECONDS = 5.0
LOOK_SECONDS = 0.02

T = TypeVar("T")


class Heartbeat:
    """Renews one lease until it is left; says what people want of the job, and whether it was lost.

    `on_lost` is called from a thread of its own, once, when the lease is gone or could not be renewed
    in time, also when the store hangs; it must stop the children and return quickly. A process that
    was frozen gets one more try to renew first: perhaps nobody took the job meanwhile.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        worker_id: str,
        on_lost: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.store, self.lease, self.worker_id, self.on_lost = store, lease, worker_id, on_lost
        self.want = Want.RUN
        self.lost = False
        self._clock, self._wait = clock, wait
        self._renewed = clock()
        self._failing = False
        self._over = threading.Event()
        self._hurry = threading.Event()
        self._once = threading.Lock()
        self._threads = [
            threading.Thread(target=loop, name=f"{name} {lease.job_id}", daemon=True)
            for name, loop in (("heartbeat", self._renew_always), ("lease", self._watch))
        ]

    def check(self) -> None:
        """Raises LeaseLost if the lease is gone."""
        if self.lost:
            raise LeaseLost()

    def pause(self, seconds: float) -> None:
        """Sleep, at most until the lease is lost."""
        self._wait(self._over, seconds)

    def while_ours(self, ask: Callable[[], T]) -> T:
        """Ask the store, again and again while it does not answer and the lease can still be ours.

        Raises LeaseLost after that.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            self.check()
            try:
                return ask()
            except StoreUnavailable as exc:
                log.debug("%s: the store does not answer: %s", self.lease.job_id, exc)
            self.pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def __enter__(self) -> Heartbeat:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._hurry.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _renew_always(self) -> None:
        while not self._over.is_set():
            self._wait(self._hurry, self.store.heartbeat_seconds)
            self._hurry.clear()
            if self._over.is_set():
                return
            asked = self._clock()
            try:
                wants = self.store.jobs.renew_if_current([self.lease], self.worker_id)
            except StoreUnusable as exc:
                self._say_once(exc)
                continue
            if self.lease.job_id not in wants:
                if not self._let_go():
                    self._lose("somebody else may hold it")
                return
            self._failing = False
            self._renewed = asked
            self.want = wants[self.lease.job_id]

    def _let_go(self) -> bool:
        """Whether the job has just ended or come to rest by the hand of this very worker."""
        try:
            job = self.store.jobs.get(self.lease.job_id)
        except TidemillError:
            return False
        return job.epoch == self.lease.epoch and job.state not in LEASED

    def _say_once(self, exc: StoreUnusable) -> None:
        if not self._failing:
            log.warning("the lease of %s cannot be renewed: %s", self.lease.job_id, exc)
        self._failing = True

    def _watch(self) -> None:
        while not self._over.is_set():
            left = self._left()
            if left > 0:
                self._wait(self._over, left)
            elif self._failing or not self._renewed_in_grace():
                self._lose("it could not be renewed in time")
                return

    def _left(self) -> float:
        return self._renewed + self.store.lease_seconds * MARGIN - self._clock()

    def _renewed_in_grace(self) -> bool:
        self._hurry.set()
        stop = self._clock() + self.store.lease_seconds * (1 - MARGIN) / 2
        while self._clock() < stop and not self._over.is_set():
            self._wait(self._over, LOOK_SECONDS)
            if self._left() > 0:
                return True
        return self._over.is_set() or self._left() > 0

    def _lose(self, why: str) -> None:
        with self._once:
            if self._over.is_set():
                return
            self.lost = True
            self._over.set()
            self._hurry.set()
        log.warning("the lease of %s is lost: %s", self.lease.job_id, why)
        self.on_lost()
