"""What a blow is aimed at and what it hit; what must hold of a job that was hit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import checker
from tests.crash.rig import ledger, tree
from tests.crash.rig.job import CrashJob, then_done
from tests.crash.rig.ledger import Look
from tests.crash.rig.record import Kill, write


@dataclass(frozen=True, kw_only=True)
class Point:
    """An instant: so long after something was seen.

    "start": the command was started; "again": this run has the job; one of `life.SIGHTS`; or this run has got the job
    to a phase.
    """

    phase: str
    delay: float
    chunks_done: int = 0

    def __str__(self) -> str:
        chunks = f" with {self.chunks_done} chunks" if self.chunks_done else ""
        return f"{self.phase}{chunks} + {self.delay * 1000:.0f} ms"


@dataclass(frozen=True, kw_only=True)
class Struck:
    """What a blow hit."""

    case: str
    """The test's own name for what it tried."""
    seed: int
    target: str
    point: Point | str
    look: Look
    hit: bool
    run: int
    log_bytes: int
    """Length of this run's log of predict calls when the blow fell."""

    def __str__(self) -> str:
        found = f"{self.look.state} with {len(self.look.committed)} chunks" if self.hit else "missed"
        return f"{self.case}, seed {self.seed}: {self.target} in run {self.run} at {self.point}, {found}"


def nobody_left(job: CrashJob, known: Sequence[int] = ()) -> None:
    """No process of the job lives one second after its worker's death, nor any of those that are known.

    One that is just dying has lost its environment already, and with it the mark.
    """
    stop = time.monotonic() + 1
    while left := {*tree.marked(job.mark), *(pid for pid in known if tree.alive(pid))}:
        if time.monotonic() > stop:
            raise AssertionError(f"alive one second after the worker's death: {[(p, tree.words(p)) for p in left]}")
        time.sleep(0.02)


def log_bytes(job: CrashJob, run: int) -> int:
    path = job.log(run)
    return path.stat().st_size if path.exists() else 0


def scored(job: CrashJob, run: int, *, after: int = 0) -> list[tuple[int, int]]:
    """Row keys that began a predict call of one run, from a length of its log on."""
    path = job.log(run)
    if not path.exists():
        return []
    lines = path.read_bytes()[after:].decode().splitlines()
    return [(int(words[1]), int(words[2])) for words in (line.split() for line in lines) if len(words) == 4]


def chunk_of(job: CrashJob) -> dict[tuple[int, int], int]:
    """The chunk of every row key, from the rows that the store says each chunk has."""
    last = ledger.look(job.database)
    rows = checker.read_inputs(job.inputs)
    keys = zip(rows["file_no"].to_pylist(), rows["row_no"].to_pylist(), strict=True)
    sizes = ledger.chunk_rows(job.database, last.job_id)
    numbers = (chunk for chunk in sorted(sizes) for _ in range(sizes[chunk]))
    return dict(zip(keys, numbers, strict=True))


def judge(job: CrashJob, blows: Sequence[Struck], runs: int, *, suite: str) -> list[Kill]:
    """Records of the blows: what was scored after each. None of that may have been committed when it fell."""
    where = chunk_of(job)
    kills = []
    for blow in blows:
        later = {where[key] for key in scored(job, blow.run, after=blow.log_bytes)}
        for run in range(blow.run + 1, runs):
            later |= {where[key] for key in scored(job, run)}
        kill = Kill(
            suite=suite,
            case=blow.case,
            seed=blow.seed,
            point=str(blow.point),
            target=blow.target,
            state=blow.look.state,
            hit=blow.hit,
            recovery=blow.run > 0,
            chunks_total=len(set(where.values())),
            chunks_done=len(blow.look.committed),
            scored_again=len(later & blow.look.committed),
            scored_after=len(later),
            runs=runs,
        )
        write(kill)
        kills.append(kill)
        assert kill.scored_again == 0, kill
        assert not kill.chunks_done or kill.scored_after < kill.chunks_total, kill
    return kills


def check_visible(job: CrashJob, state: str, before: tuple[Path, ...]) -> None:
    """What a reader sees of a job that a kill interrupted: nothing, or all of it while committing."""
    committing = state not in ("absent", "queued", "planning", "running", "paused", "failed")
    after = (*before, *job.inputs) if job.mode == "append" else job.inputs
    if not before and not job.output.exists():
        return None if committing else checker.check_nothing_visible(job.output)
    seen = checker.check_old_or_new(job.output, before or after, after)
    if seen == "new" and not committing:
        raise checker.Wrong(f"new rows are visible of a job that is {state}")
    return None


def finish_and_check(job: CrashJob, runs: int) -> int:
    """Run once more, which must end the job, and check everything. Gives how many runs there were in all."""
    then_done(job, runs)
    check(job)
    return runs + 1


def check(job: CrashJob, before: tuple[Path, ...] = (), *, values: bool = True) -> checker.Published:
    """The checker's word on a finished job. Without `values` its model is no function of the row key."""
    older = before if job.mode == "append" else ()
    found = checker.check(job.inputs, job.output, before=older, kept=job.keep.split(","), values=values)
    checker.check_store(job.database, job.output)
    return found
