"""Series: jobs over an input that grows, each of which scores only the files that none before it has scored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tidemill.domain.errors import SeriesBusy
from tidemill.domain.job import JobState

HOLDING = frozenset({JobState.QUEUED, JobState.PLANNING, JobState.RUNNING, JobState.COMMITTING, JobState.PAUSED})
"""States in which a planned job keeps its series for itself: what it scores is not recorded yet."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series as the store knows it. Times are aware UTC."""

    tenant: str
    name: str
    jobs: int
    """How many jobs of it have succeeded."""
    files: int
    """How many different files they scored and nobody forgot."""
    holder: str | None
    """The job that has planned what it scores and has not succeeded yet."""
    recorded_at: datetime | None
    """When the last one succeeded."""


def check_over(name: str, holder: str, state: JobState) -> None:
    """Raise SeriesBusy unless the job that holds the series has ended or failed."""
    if state in HOLDING:
        raise SeriesBusy(
            f"{holder} of the series {name!r} is {state} and has not ended yet, so what it scores is not recorded.",
            remedy=f"Wait for it, or end it with `tidemill jobs cancel {holder}`; then try again.",
        )
