"""One kill of one run: wait for the point, kill, look at what is left."""

from __future__ import annotations

import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests import checker
from tests.crash.rig import ledger, tree
from tests.crash.rig.job import SUCCESS, CrashJob, Ran, ended, once, start, then_done
from tests.crash.rig.ledger import Look, Window
from tests.crash.rig.record import Kill, write


@dataclass(frozen=True, kw_only=True)
class Spans:
    """How long each phase of an undisturbed job took, in seconds."""

    seconds: dict[str, float]
    total: float

    def within(self, phase: str, rng: random.Random) -> float:
        """A random instant of a phase."""
        return rng.uniform(0, 0.7 * self.seconds.get(phase, 0.0))


def measure(job: CrashJob) -> Spans:
    """Run a job undisturbed, with a look every millisecond."""
    began = time.monotonic()
    process, window = start(job), Window(job.database)
    first: dict[str, float] = {}
    while process.poll() is None:
        first.setdefault(window.look().state, time.monotonic())
        time.sleep(0.001)
    stop = time.monotonic()
    window.close()
    ran = ended(job, 0, process)
    assert ran.code in SUCCESS, ran
    marks = [*first.items(), ("ended", stop)]
    spans = {name: marks[i + 1][1] - at for i, (name, at) in enumerate(marks[:-1])}
    return Spans(seconds=spans, total=stop - began)


@dataclass(frozen=True, kw_only=True)
class Point:
    """An instant: so long after the job came to a phase ("start": after the command was started)."""

    phase: str
    delay: float
    chunks_done: int = 0

    def __str__(self) -> str:
        chunks = f" with {self.chunks_done} chunks" if self.chunks_done else ""
        return f"{self.phase}{chunks} + {self.delay * 1000:.0f} ms"


@dataclass(frozen=True, kw_only=True)
class Struck:
    """What a kill hit."""

    target: str
    point: Point
    look: Look
    hit: bool
    run: int
    log_bytes: int
    """Length of this run's log of predict calls when the blow fell."""
    ran: Ran


def strike(job: CrashJob, run: int, target: str, point: Point) -> Struck:
    """Start the command, kill the target at the point, wait until the command has ended."""
    process = start(job, run)
    with Window(job.database) as window:
        _wait(process, window, point)
        before = window.look(chunks=True)
        running = process.poll() is None
        pid = tree.kill(process.pid, target) if running else None
        struck_bytes = log_bytes(job, run)
        ran = ended(job, run, process)
        whole = target in ("worker", "group")
        seen = window.look(chunks=True) if whole else before
    if whole:
        _nobody_left(job)
        struck_bytes = log_bytes(job, run)
    hit = pid is not None and (seen if whole else before).phase < ledger.PHASES.index("ended")
    return Struck(target=target, point=point, look=seen, hit=hit, run=run, log_bytes=struck_bytes, ran=ran)


def _wait(process: subprocess.Popen[str], window: Window, point: Point) -> None:
    if point.phase != "start":
        window.wait(point.phase, running=lambda: process.poll() is None, chunks_done=point.chunks_done)
    time.sleep(point.delay)


def _nobody_left(job: CrashJob) -> None:
    stop = time.monotonic() + 1
    while left := tree.marked(job.mark):
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


def judge(job: CrashJob, blows: list[Struck], case: str, seed: int, runs: int) -> list[Kill]:
    """Records of the blows: what each cost in chunks scored again."""
    where = chunk_of(job)
    kills = []
    for blow in blows:
        later = {where[key] for key in scored(job, blow.run, after=blow.log_bytes)}
        for run in range(blow.run + 1, runs):
            later |= {where[key] for key in scored(job, run)}
        kill = Kill(
            suite="instants",
            case=case,
            seed=seed,
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


def finish_and_check(job: CrashJob, runs: int, *, before: tuple[Path, ...] = (), again: bool = False) -> int:
    """Run once more, which must end the job, and check everything. Gives how many runs there were in all.

    With `again` the same command is run yet once more: it must change nothing.
    """
    then_done(job, runs)
    first = check(job, before)
    if again:
        ran = once(job, runs + 1)
        assert ran.code in SUCCESS, ran
        assert "up to date" in (ran.stdout + ran.stderr).lower(), ran
        assert check(job, before) == first
    return runs + 1


def check(job: CrashJob, before: tuple[Path, ...] = ()) -> checker.Published:
    """The checker's word on a finished job."""
    kept = before if job.mode == "append" else ()
    found = checker.check(job.inputs, job.output, before=kept)
    checker.check_store(job.database, job.output)
    return found
