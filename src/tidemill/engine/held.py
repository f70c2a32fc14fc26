"""A job that this worker holds: reading and writing it while the store may be away for a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tidemill.domain.errors import LeaseLost
from tidemill.domain.job import Job, Lease
from tidemill.engine.heartbeat import Heartbeat
from tidemill.ports.store import Store


@dataclass(frozen=True, kw_only=True)
class Held:
    """One lease. Everything raises LeaseLost once the job cannot be this worker's any more."""

    store: Store
    lease: Lease
    beat: Heartbeat

    def look(self) -> Job:
        """The job as stored. A process that was frozen does not know yet what it lost; here it is told."""
        job = self.beat.while_ours(lambda: self.store.jobs.get(self.lease.job_id))
        if job.epoch != self.lease.epoch:
            raise LeaseLost()
        return job

    def ask_current(self) -> None:
        """Raise LeaseLost if the store knows that nobody, or another one, holds the job."""
        if not self.store.jobs.is_current(self.lease):
            raise LeaseLost()

    def write(self, write: Callable[[], bool], happened: Callable[[Job], bool]) -> None:
        """Write under the lease, again while the store does not answer.

        An answer may get lost after the write was done: then `happened` tells by the job that is stored.
        """
        tries = 0

        def once() -> bool:
            nonlocal tries
            tries += 1
            return write() or (tries > 1 and self._has(happened))

        try:
            done = self.beat.while_ours(once)
        except LeaseLost:
            # A lease that was left is lost as well.
            done = tries > 0 and self._has(happened)
        if not done:
            raise LeaseLost()

    def count_crash(self) -> int:
        """Crashes since the last committed chunk, with this one."""
        count = self.beat.while_ours(lambda: self.store.jobs.count_crash_if_current(self.lease))
        if count is None:
            raise LeaseLost()
        return count

    def _has(self, happened: Callable[[Job], bool]) -> bool:
        job = self.store.jobs.get(self.lease.job_id)
        return job.epoch == self.lease.epoch and happened(job)
