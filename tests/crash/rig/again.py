"""What a resumed job did twice."""

from __future__ import annotations

from dataclasses import dataclass

from tests.crash.rig.job import CrashJob
from tests.crash.rig.ledger import Look
from tests.crash.rig.strike import chunk_of, scored


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """Chunks that went through the model after an instant; `again` of them were committed then."""

    after: int
    again: int


def rescored(job: CrashJob, left: Look, runs: range) -> Rescored:
    """What these runs scored, by their logs of predict calls; `left` is what was committed before them."""
    where = chunk_of(job)
    later = {where[key] for run in runs for key in scored(job, run)}
    return Rescored(after=len(later), again=len(later & left.committed))
