"""One kill of one run: wait for the point, kill, look at what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import checker
from tests.crash.rig import ledger, strace, tree
from tests.crash.rig.job import SUCCESS, CrashJob, Ran, ended, once, start, then_done
from tests.crash.rig.ledger import Look, Window
from tests.crash.rig.record import Kill, write

SIGHTS = {
    "store": "home/tidemill.db",
    "claim": "place/.scores.tidemill.claim",
    "listed": "place/.scores.tidemill/*/plan/files.arrow",
    "planned": "place/.scores.tidemill/*/plan/plan.json",
    "scored": "place/.scores.tidemill/*/parts/*",
    "assembled": "place/.scores.tidemill/*/out/data",
    "journalled": "place/.scores.tidemill/*/journal.json",
    "shown": "place/scores",
}
"""What can be seen of a job from outside, in the order in which it comes; where, below the job's folder."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An instant: so long after something was seen.

    "start": the command was started; "again": this run has the job; one of `SIGHTS`; or the job came to a phase.
    """

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
    point: Point | str
    look: Look
    hit: bool
    run: int
    log_bytes: int
    """Length of this run's log of predict calls when the blow fell."""
    ran: Ran


def strike(job: CrashJob, run: int, target: str, point: Point) -> Struck:
    """Start the command, kill the target at the point, wait until the command has ended."""
    epoch = ledger.look(job.database).epoch
    process = start(job, run)
    with Window(job.database) as window:
        _wait(job, process, window, point, epoch)
        before = window.look(chunks=True)
        running = process.poll() is None
        pid = tree.kill(process.pid, target) if running else None
        struck_bytes = log_bytes(job, run)
        ran = ended(job, run, process)
        whole = target in ("worker", "group")
        seen = window.look(chunks=True) if whole else before
    if whole:
        nobody_left(job)
        struck_bytes = log_bytes(job, run)
    hit = pid is not None and (seen if whole else before).phase < ledger.PHASES.index("ended")
    return Struck(target=target, point=point, look=seen, hit=hit, run=run, log_bytes=struck_bytes, ran=ran)


def strike_call(job: CrashJob, run: int, call: str, n: int) -> Struck:
    """Start the command; the worker dies as it enters its N-th call of that name."""
    log = job.logs / f"kill.{run}.strace"
    ran = once(job, run, prefix=strace.prefix(log, [call], f"{call}:signal=KILL:when={n}"))
    return _struck(job, run, f"{call} {n}", ran, hit=strace.killed(log))


def strike_between_commits(job: CrashJob, run: int, chunks_done: int) -> Struck:
    """Start the command; the worker dies when so many chunks are committed, or a few more: two commits, each of
    what its scorers can hold twice.

    It hands out chunks slowly, so that there are several commits, and is stopped each time it has synced the
    store, so that it cannot run past the point, however fast the model is.
    """
    stops = stopping(job, run, "fdatasync", "1+", "sendmsg:delay_enter=100000")
    with Window(job.database) as window:
        while stops.wait() and window.look().chunks_done < chunks_done:
            stops.go_on()
    if stops.tracer.poll() is None:
        os.kill(stops.worker, signal.SIGKILL)
    ran = ended(job, run, stops.tracer)
    return _struck(job, run, f"{chunks_done} chunks", ran, hit=strace.killed(stops.log))


def stopping(job: CrashJob, run: int, call: str, when: str, *inject: str) -> strace.Stops:
    """Start the command; its worker is stopped after the calls of that name that `when` says."""
    log, stop = job.logs / f"stop.{run}.strace", f"{call}:signal=STOP:when={when}"
    calls = [call, *(each.partition(":")[0] for each in inject)]
    tracer = start(job, run, prefix=strace.prefix(log, calls, stop, *inject))
    return strace.Stops(tracer=tracer, log=log)


def _struck(job: CrashJob, run: int, point: str, ran: Ran, *, hit: bool) -> Struck:
    """Of a worker that is dead."""
    nobody_left(job)
    look = ledger.look(job.database)
    return Struck(target="worker", point=point, look=look, hit=hit, run=run, log_bytes=log_bytes(job, run), ran=ran)


def _wait(job: CrashJob, process: subprocess.Popen[str], window: Window, point: Point, epoch: int) -> None:
    def running() -> bool:
        return process.poll() is None

    if point.phase in ledger.PHASES:
        window.wait(point.phase, running=running, chunks_done=point.chunks_done)
    while running() and not _is_seen(job, window, point.phase, epoch):
        time.sleep(0.001)
    time.sleep(point.delay)


def _is_seen(job: CrashJob, window: Window, phase: str, epoch: int) -> bool:
    if phase == "again":
        return window.look().epoch > epoch
    return phase not in SIGHTS or any(job.home.parent.glob(SIGHTS[phase]))


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


def judge(
    job: CrashJob, blows: Sequence[Struck], case: str, seed: int, runs: int, *, suite: str = "instants"
) -> list[Kill]:
    """Records of the blows: what each cost in chunks scored again. None of them may be one that was committed."""
    where = chunk_of(job)
    kills = []
    for blow in blows:
        later = {where[key] for key in scored(job, blow.run, after=blow.log_bytes)}
        for run in range(blow.run + 1, runs):
            later |= {where[key] for key in scored(job, run)}
        kill = Kill(
            suite=suite,
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
