"""Keeping a lease: a thread that renews and does nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from tidemill.domain.errors import LeaseLost, TidemillError
from tidemill.domain.job import Lease, Want
from tidemill.ports.store import Store

log = logging.getLogger(__name__)

MARGIN = 0.8
"""After this share of the lease without a renewal the children are killed: before it can be taken."""


class Heartbeat:
    """Renews one lease until it is left; says what people want of the job, and whether it was lost.

    `on_lost` is called from this thread, once, when the lease is gone or could not be renewed in time;
    it must stop the children and return quickly.
    """

    def __init__(self, store: Store, lease: Lease, worker_id: str, on_lost: Callable[[], None]) -> None:
        self.store, self.lease, self.worker_id, self.on_lost = store, lease, worker_id, on_lost
        self.want = Want.RUN
        self.lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def check(self) -> None:
        """Raises LeaseLost if the lease is gone."""
        if self.lost:
            raise LeaseLost()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(self.store.heartbeat_seconds):
            try:
                wants = self.store.jobs.renew_if_current([self.lease], self.worker_id)
            except TidemillError as exc:
                log.warning("the lease of %s could not be renewed: %s", self.lease.job_id, exc)
                if time.monotonic() - renewed < self.store.lease_seconds * MARGIN:
                    continue
                wants = {}
            if self.lease.job_id not in wants:
                self.lost = True
                self.on_lost()
                return
            renewed = time.monotonic()
            self.want = wants[self.lease.job_id]
