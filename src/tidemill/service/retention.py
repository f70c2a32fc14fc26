"""Removing what is over its time, in small steps. Everything is safe to repeat and to do twice at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tidemill.domain.errors import NotFound, StoreUnusable, TidemillError
from tidemill.domain.ids import new_id
from tidemill.domain.job import ENDED, FINISHED, Job, JobFilter, JobState, Want
from tidemill.durable.files import remove_file
from tidemill.service import joblog, models, results, stdin, uploads
from tidemill.service.context import Context
from tidemill.service.joblog import JobLog
from tidemill.wire.spec import JobSpec

log = logging.getLogger(__name__)

ROWS_PER_STEP = 1000
"""So many rows of a forgotten job are deleted in one transaction."""
PAGE = 100
LOOKED_AT = 1000
"""So many jobs are looked at for leftovers in one sweep: of the newest, and of older ones."""
RESTING = (JobState.PAUSED, JobState.FAILED)
NOT_ENDED = tuple(state for state in JobState if state not in ENDED)
LIMIT = 200


@dataclass
class Cursor:
    """How far one sweep after the other has looked at jobs that have ended."""

    before: str | None = None
    """The job to go on from; None: from the newest."""


def sweep(context: Context, now: datetime, limit: int = LIMIT, *, cursor: Cursor | None = None) -> dict[str, int]:
    """Remove what is older than the policy says at `now`, at most `limit` of each kind; how many it was.

    What cannot be removed now is left for the next time, and does not keep the rest. Whoever sweeps again
    and again gives the same `cursor` each time.
    """
    policy = context.policy
    unused = now - timedelta(days=policy.environment_days)
    return {
        "leftovers": _leftovers(context, cursor or Cursor(), limit),
        "results": _results(context, now - timedelta(days=policy.result_days), limit),
        "deleted": _counted("a deleted result", lambda: results.sweep_deleted(context, limit)),
        "staging": _staging(context, now - timedelta(days=policy.staging_days), limit),
        "jobs": _jobs(context, now - timedelta(days=policy.job_days), limit),
        "uploads": _counted("an upload", lambda: len(uploads.sweep(context, now, limit, in_use=_Inputs(context)))),
        "stdin": sweep_stdin(context, now, limit),
        "models": _counted("what is left of additions of models", lambda: models.sweep_unfinished(context, now)),
        "environments": _counted("an environment", lambda: models.sweep_environments(context, unused, limit)),
        "logs": _logs(context, now - timedelta(days=policy.log_days), limit),
        "deliveries": context.store.outbox.forget_before(now - timedelta(days=policy.delivery_days), limit=limit),
        "firings": context.store.firings.forget_before(now - timedelta(days=policy.firing_days), limit=limit),
        "audit": context.store.audit.forget_before(now - timedelta(days=policy.audit_days), limit=limit),
    }


def sweep_stdin(context: Context, now: datetime, limit: int = LIMIT) -> int:
    """Remove what was piped in and is not needed any more; how many files."""
    return _counted("what was piped in", lambda: stdin.sweep(context, now, limit, in_use=_Inputs(context)))


def _leftovers(context: Context, cursor: Cursor, limit: int) -> int:
    """Claims and staging of jobs that have ended: their worker died right after it had said so.

    The newest jobs are looked at each time, and some of the older ones, where the cursor is.
    """
    gone, last = _clear(context, None, limit)
    older, cursor.before = _clear(context, cursor.before or last, limit - gone) if last else (0, None)
    return gone + older


def _clear(context: Context, before: str | None, limit: int) -> tuple[int, str | None]:
    """How many of the jobs that come before that one left something; the last looked at, None at the end."""
    gone, looked = 0, 0
    try:
        for job in _listed(context, tuple(ENDED), before):
            if gone >= limit or looked >= LOOKED_AT:
                return gone, before
            with _reported(f"what {job.id} left"):
                gone += _clear_one(context, job)
            before, looked = job.id, looked + 1
    except NotFound:
        log.debug("%s was forgotten meanwhile; the next look begins with the newest job", before)
    return gone, None


def _clear_one(context: Context, job: Job) -> bool:
    sink = context.open_sink(JobSpec.model_validate(job.spec))
    if not sink.holds(job.id):
        return False
    if job.state in FINISHED:
        sink.finish(job.id)
    else:
        sink.discard(job.id)
    return True


def _results(context: Context, before: datetime, limit: int) -> int:
    """Managed results and files made for downloads, found by their folders, which bear the ids of their jobs:
    those sort by time."""
    try:
        names = sorted(os.listdir(context.places.results))
    except FileNotFoundError:
        return 0
    youngest, gone = new_id("job", now_ms=round(before.timestamp() * 1000)), 0
    for name in names:
        if gone >= limit or name > youngest:
            break
        with _reported(f"the result of {name}"):
            job = _find(context, name)
            if job is not None and _may_go(context, job, before):
                results.remove(context, job)
                gone += 1
    return gone


def _find(context: Context, job_id: str) -> Job | None:
    try:
        job = context.store.jobs.get(job_id)
    except NotFound:
        return None
    return job if job.id == job_id else None


def _may_go(context: Context, job: Job, before: datetime) -> bool:
    """Whether what is kept of this job's result is over its time, or whether it has ended without one.

    Beside a result with a place of its own lie only files made for downloads, when somebody asked for them.
    """
    if job.state not in ENDED or _came_to_rest(context, job) >= before:
        return False
    exported = None if job.managed else results.exported_at(context, job)
    return exported is None or exported < before


def _staging(context: Context, before: datetime, limit: int) -> int:
    """What paused and failed jobs keep to be resumed. Then they cannot be: they are cancelled."""
    gone = 0
    for job in list(_listed(context, RESTING)):  # Each sweep ends the old ones, so there are never many.
        if gone >= limit:
            break
        if _came_to_rest(context, job) >= before:
            continue
        with _reported(f"the staging of {job.id}"):
            if context.store.jobs.wish(job.id, Want.CANCEL).state is JobState.CANCELLED:
                context.open_sink(JobSpec.model_validate(job.spec)).discard(job.id)
                days = context.policy.staging_days
                JobLog(context.places.logs, job.id, context.worker_id).say(
                    f"cancelled: it was {job.state.value} and not resumed within {days:g} days; its staging is removed"
                )
                gone += 1
    return gone


def _listed(context: Context, states: tuple[JobState, ...], before: str | None = None) -> Iterator[Job]:
    """Every job in one of these states, newest first. Raises NotFound if the one to go on from is not there."""
    while page := context.store.jobs.list(JobFilter(states=states), limit=PAGE, before=before):
        yield from page
        before = page[-1].id


def _jobs(context: Context, before: datetime, limit: int) -> int:
    """Old jobs with their ledger, their log and what the service keeps of their result."""
    gone = 0
    for job in context.store.history.ended_before(before, limit=limit):
        with _reported(job.id):
            if job.state in RESTING:
                continue  # Its staging goes first; then it has ended.
            # The job goes last: nobody would find again what a sweep that is killed here left of it.
            results.remove(context, job)
            joblog.remove(context, job.id)
            while not context.store.history.forget_if_ended(job.id, limit=ROWS_PER_STEP):
                pass
            gone += 1
    return gone


class _Inputs:
    """Paths that jobs may still have to read; looked up once, and only if somebody asks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._paths: set[str] | None = None

    def __contains__(self, path: object) -> bool:
        if self._paths is None:
            self._paths = {path for job in _listed(self._context, NOT_ENDED) for path in job.spec["input"]["path"]}
        return path in self._paths


def _logs(context: Context, before: datetime, limit: int) -> int:
    gone = 0
    for path in _older(context.places.logs, before, limit):
        with _reported(f"the log {path}"):
            remove_file(path)
            gone += 1
    return gone


def _older(folder: Path, before: datetime, limit: int) -> list[Path]:
    """Entries of a folder that were last changed before then, the oldest first, at most so many."""
    try:
        with os.scandir(folder) as entries:
            ages = [(entry.stat(follow_symlinks=False).st_mtime, entry.path) for entry in entries]
    except FileNotFoundError:
        return []
    old = sorted(age for age in ages if datetime.fromtimestamp(age[0], UTC) < before)
    return [Path(path) for _, path in old[:limit]]


def _came_to_rest(context: Context, job: Job) -> datetime:
    """When the job came to the state that it is in."""
    if job.finished_at is not None:
        return job.finished_at
    at, after = job.created_at, 0
    while page := context.store.history.events(job.id, after=after):
        at, after = page[-1].at, page[-1].number
    return at


def _counted(what: str, sweep: Callable[[], int]) -> int:
    """How many things a sweep of somebody else's removed; 0 if it broke off."""
    gone = 0
    with _reported(what):
        gone += sweep()
    return gone


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """One thing that cannot be removed must not keep the others; a store that is away keeps them all."""
    try:
        yield
    except StoreUnusable:
        raise
    except (TidemillError, OSError) as exc:
        log.warning("%s cannot be removed now: %s", what, exc)
