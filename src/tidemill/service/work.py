"""Running stored jobs in this process: claim, run, hand over."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tidemill.domain.admission import Needs
from tidemill.domain.errors import LeaseLost, StoreUnusable, TidemillError
from tidemill.domain.job import Job, Lease
from tidemill.domain.version import __version__
from tidemill.engine.drain import Drain
from tidemill.engine.recall import Recall
from tidemill.ports.observer import Observer
from tidemill.ports.store import WorkerFacts
from tidemill.service import claims, places, retention
from tidemill.service.context import Context
from tidemill.service.joblog import JobLog

log = logging.getLogger(__name__)

CLAIM_SECONDS = 1.0
"""How often a worker with room looks for jobs whose lease ended, which nobody announces."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
FIRST_SWEEP_SECONDS = 10.0
SWEEP_SECONDS = 300.0
JOIN_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """How much one worker does."""

    jobs_at_once: int
    host: Needs
    """All that this worker's host gives to jobs."""
    gpus: tuple[str, ...] | None = None
    """The names of those GPUs, as many as `host` has. None: nobody is kept from any GPU."""
    drain_seconds: float
    """How long chunks in flight may take when the worker ends."""
    sweep_seconds: float = SWEEP_SECONDS
    """How often what is over its time is removed."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A job that runs here."""

    job: Job
    thread: threading.Thread
    gpus: tuple[str, ...] | None
    """Those that are its own."""


class Pool:
    """Claims jobs and runs each in a thread of its own, as many as fit.

    One job's failure, lost lease or crash loop is its own. All methods are thread-safe.
    """

    def __init__(self, context: Context, options: PoolOptions, observers: Sequence[Observer] = ()) -> None:
        self.context, self.options, self.observers = context, options, tuple(observers)
        self._drain = Drain()
        self._recall = Recall()
        self._wake = threading.Event()
        self._guard = threading.Lock()
        self._running: dict[Lease, _Held] = {}
        self._ended = threading.Event()
        self._announced = 0.0
        self._away = False
        self._threads = [
            threading.Thread(target=self._dispatch, name="dispatcher", daemon=True),
            threading.Thread(target=self._listen, name="watcher", daemon=True),
            threading.Thread(target=self._sweep, name="sweeper", daemon=True),
        ]

    def start(self) -> None:
        """Begin to take jobs."""
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> list[str]:
        """Ids of the jobs that this pool holds now."""
        with self._guard:
            return sorted({held.job.id for held in self._running.values()})

    @property
    def draining(self) -> bool:
        return self._drain.begun

    def drain(self) -> None:
        """Take no more jobs, finish chunks in flight, hand the jobs over. Returns at once; safe to repeat."""
        self._drain.begin(self.options.drain_seconds)
        self._wake.set()

    def stop(self) -> None:
        """End now: children are killed, leases run out and other workers take over. Safe to repeat."""
        self._drain.abandon()
        self._wake.set()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until a drained or stopped pool holds no job any more; whether it came to that."""
        return self._ended.wait(seconds)

    # -- the dispatcher

    def _dispatch(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not (self._drain.begun and not self.running) and not self._drain.abandoned:
            if self._take_jobs():
                pause = FIRST_PAUSE_SECONDS
                self._wait(min(CLAIM_SECONDS, self.context.store.heartbeat_seconds))
            else:
                self._wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self._end()

    def _take_jobs(self) -> bool:
        """Take what fits; False if that failed."""
        try:
            self._announce()
            while not self._drain.begun and self._claim():
                pass
        except StoreUnusable as exc:
            if not self._away:
                log.warning("no jobs are taken while the store does not answer: %s", exc)
            self._away = True
            return False
        except Exception:
            log.exception("taking jobs failed; it is tried again")
            return False
        if self._away:
            log.info("the store answers again")
        self._away = False
        return True

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _announce(self) -> None:
        now = time.monotonic()
        if now - self._announced < self.context.store.heartbeat_seconds and not self._drain.begun:
            return
        self.context.store.workers.announce(
            WorkerFacts(
                id=self.context.worker_id,
                host=self.context.host,
                pid=os.getpid(),
                version=__version__,
                capacity=self.options.host,
                free=self._free() or Needs(cpus=0),
                draining=self._drain.begun,
            )
        )
        self._announced = now

    def _free(self) -> Needs | None:
        """What no job of this pool has taken; None if it runs as many as it may."""
        with self._guard:
            jobs = [held.job for held in self._running.values()]
        if len(jobs) >= self.options.jobs_at_once:
            return None
        free = self.options.host
        for job in jobs:
            free = free.minus(job.needs)
        return free

    def _claim(self) -> bool:
        """Take one job and start it; whether there was one."""
        free = self._free()
        if free is None:
            return False
        claimed = self.context.store.jobs.claim_next(self.context.worker_id, free=free, host=self.options.host)
        if claimed is None:
            return False
        job, lease = claimed
        gpus = self._gpus(job.needs.gpus)
        thread = threading.Thread(target=self._run, args=(job, lease, gpus), name=job.id, daemon=True)
        with self._guard:
            # A job that came back after its lease was lost here may still be ending.
            self._running[lease] = _Held(job=job, thread=thread, gpus=gpus)
        self._announced = 0.0
        log.info("took %s, %s (epoch %d)", job.id, job.name, lease.epoch)
        thread.start()
        return True

    def _gpus(self, wanted: int) -> tuple[str, ...] | None:
        """So many that no other job has."""
        if self.options.gpus is None:
            return None
        with self._guard:
            taken = {gpu for held in self._running.values() for gpu in held.gpus or ()}
        return tuple(gpu for gpu in self.options.gpus if gpu not in taken)[:wanted]

    def _end(self) -> None:
        if self._drain.abandoned:
            self._join_jobs()
        try:
            self.context.store.workers.withdraw(self.context.worker_id)
        except StoreUnusable as exc:
            log.warning("the worker could not take its leave: %s", exc)
        self._ended.set()
        self._wake.set()

    def _join_jobs(self) -> None:
        stop = time.monotonic() + JOIN_SECONDS
        with self._guard:
            threads = [held.thread for held in self._running.values()]
        for thread in threads:
            thread.join(max(0.0, stop - time.monotonic()))

    # -- a job's own thread

    def _run(self, job: Job, lease: Lease, gpus: tuple[str, ...] | None) -> None:
        try:
            ended = self._drive(job, lease, gpus)
            log.info("%s is %s", job.id, ended.state.value)
        except LeaseLost as exc:
            log.warning("%s was let go: %s", job.id, exc)
        except TidemillError as exc:
            log.error("%s was let go, its lease runs out: %s", job.id, exc)
        except Exception:
            log.exception("%s ended with an error that is a defect of Tidemill", job.id)
        finally:
            with self._guard:
                del self._running[lease]
            self._announced = 0.0
            self._wake.set()

    def _drive(self, job: Job, lease: Lease, gpus: tuple[str, ...] | None) -> Job:
        context = self.context
        session = context.executor.session(job.id)
        try:
            worker = replace(
                context.worker([*self.observers, JobLog(context.places.logs, job.id, context.worker_id)]),
                executor=session,
                take_output=lambda job, sink, check: claims.take(context, job, sink, check),
                confines=places.confines_of_job(context, job),
                jobs_running=lambda: len(self.running),
                gpus=gpus,
                recall=self._recall,
                drain=self._drain,
            )
            return worker.run(job, lease)
        finally:
            session.close()

    # -- beside the jobs

    def _listen(self) -> None:
        """Wake the dispatcher when somebody wrote to the store."""
        while not self._drain.begun:
            try:
                watch = self.context.store.watch()
            except StoreUnusable:
                self._drain.wait(FIRST_PAUSE_SECONDS)
                continue
            try:
                while not self._drain.begun:
                    if watch.wait(CLAIM_SECONDS):
                        self._wake.set()
            except StoreUnusable as exc:
                log.debug("watching the store: %s", exc)
                self._drain.wait(FIRST_PAUSE_SECONDS)
            finally:
                watch.close()

    def _sweep(self) -> None:
        """Now and then remove what is over its time. Several workers may do so at once."""
        pause, cursor = min(FIRST_SWEEP_SECONDS, self.options.sweep_seconds), retention.Cursor()
        while not self._drain.wait(pause):
            pause = self.options.sweep_seconds
            try:
                gone = retention.sweep(self.context, datetime.now(UTC), cursor=cursor)
            except StoreUnusable as exc:
                log.debug("sweeping waits for the store: %s", exc)
            except Exception:
                log.exception("sweeping failed; it is tried again later")
            else:
                if any(gone.values()):
                    log.info("removed after its time: %s", _listed(gone))


def _listed(gone: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in gone.items() if count)
