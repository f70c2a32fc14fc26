"""Watching: hooks around jobs and chunks, all no-ops by default.

Called by the worker, in its thread; a hook that raises is logged and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.domain.job import Job
from tidemill.domain.receipt import Receipt


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """A live look at a running job."""

    stage: str
    """"planning", "running", "assembling", "committing"."""
    total: int = 0
    predicted: int = 0
    rejected: int = 0
    files: int = 0
    """Files seen while planning."""
    busy_seconds: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


class Observer:
    """Base of every observer; override what you need."""

    def job_started(self, job: Job, resumed_chunks: int) -> None:
        """The worker holds the job; so many chunks were committed before."""

    def job_planned(self, job: Job) -> None:
        """The plan is stored; `job.plan` is it."""

    def job_progress(self, job: Job, progress: JobProgress) -> None:
        """Something moved; a few times a second at most."""

    def chunk_committed(self, job: Job, receipt: Receipt) -> None:
        """A chunk is durable."""

    def scorer_lost(self, job: Job, cause: str, log: str) -> None:
        """A scorer died or was killed for hanging; `log` is the end of what it printed."""

    def job_ended(self, job: Job) -> None:
        """The job left the worker's hands; `job` is as stored."""
