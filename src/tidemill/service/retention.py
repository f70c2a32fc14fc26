"""Removing what is over its time, in small steps. Everything is safe to repeat and to do twice at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from tidemill.domain.errors import NotFound, StoreUnusable, TidemillError
from tidemill.domain.ids import new_id
from tidemill.domain.job import ENDED, FINISHED, Job, JobFilter, JobState, Want
from tidemill.durable.files import remove_file, remove_tree
from tidemill.service import joblog, uploads
from tidemill.service.context import Context
from tidemill.service.joblog import JobLog
from tidemill.wire.spec import JobSpec

log = logging.getLogger(__name__)

ROWS_PER_STEP = 1000
"""So many rows of a forgotten job are deleted in one transaction."""
PAGE = 100
LOOKED_AT = 1000
"""So many of the newest jobs are looked at for leftovers."""
RESTING = (JobState.PAUSED, JobState.FAILED)
NOT_ENDED = tuple(state for state in JobState if state not in ENDED)
LIMIT = 200


def sweep(context: Context, now: datetime, limit: int = LIMIT) -> dict[str, int]:
    """Remove what is older than the policy says at `now`, at most `limit` of each kind; how many it was.

    What cannot be removed now is left for the next time, and does not keep the rest.
    """
    policy = context.policy
    return {
        "leftovers": _leftovers(context, limit),
        "results": _results(context, now - timedelta(days=policy.result_days), limit),
        "staging": _staging(context, now - timedelta(days=policy.staging_days), limit),
        "jobs": _jobs(context, now - timedelta(days=policy.job_days), limit),
        "uploads": len(uploads.sweep(context, now, limit, in_use=_Inputs(context))),
        "logs": _logs(context, now - timedelta(days=policy.log_days), limit),
        "audit": context.store.audit.forget_before(now - timedelta(days=policy.audit_days), limit=limit),
    }


def _leftovers(context: Context, limit: int) -> int:
    """Claims and staging of jobs that have ended: their worker died right after it had said so."""
    gone = 0
    for job in islice(_listed(context, tuple(ENDED)), LOOKED_AT):
        if gone >= limit:
            break
        with _reported(f"what {job.id} left"):
            sink = context.open_sink(JobSpec.model_validate(job.spec))
            if not sink.holds(job.id):
                continue
            if job.state in FINISHED:
                sink.finish(job.id)
            else:
                sink.discard(job.id)
            gone += 1
    return gone


def _results(context: Context, before: datetime, limit: int) -> int:
    """Managed results, found by their folders, which bear the ids of their jobs: those sort by time."""
    try:
        names = sorted(os.listdir(context.places.results))
    except FileNotFoundError:
        return 0
    youngest, gone = new_id("job", now_ms=round(before.timestamp() * 1000)), 0
    for name in names:
        if gone >= limit or name > youngest:
            break
        with _reported(f"the result of {name}"):
            if _may_go(context, name, before):
                remove_tree(context.places.results / name)
                gone += 1
    return gone


def _may_go(context: Context, job_id: str, before: datetime) -> bool:
    """Whether this job's result is over its time, or whether it has ended without one."""
    try:
        job = context.store.jobs.get(job_id)
    except NotFound:
        return False
    return job.id == job_id and job.managed and job.state in ENDED and _came_to_rest(context, job) < before


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


def _listed(context: Context, states: tuple[JobState, ...]) -> Iterator[Job]:
    """Every job in one of these states."""
    last: str | None = None
    while page := context.store.jobs.list(JobFilter(states=states), limit=PAGE, before=last):
        yield from page
        last = page[-1].id


def _jobs(context: Context, before: datetime, limit: int) -> int:
    """Old jobs with their ledger, their log and, if the service keeps it, their result."""
    gone = 0
    for job in context.store.history.ended_before(before, limit=limit):
        with _reported(job.id):
            if job.state in RESTING:
                continue  # Its staging goes first; then it has ended.
            while not context.store.history.forget_if_ended(job.id, limit=ROWS_PER_STEP):
                pass
            if job.managed:
                remove_tree(context.places.results / job.id)
            joblog.remove(context, job.id)
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


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """One thing that cannot be removed must not keep the others; a store that is away keeps them all."""
    try:
        yield
    except StoreUnusable:
        raise
    except (TidemillError, OSError) as exc:
        log.warning("%s cannot be removed now: %s", what, exc)
