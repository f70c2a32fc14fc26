"""One job and all that befalls it: struck down, gone on with, struck down again, until a last run ends it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import checker
from tests.crash.rig import ledger, strace, tree
from tests.crash.rig.job import SUCCESS, CrashJob, Ran, ended, once, start, then_done
from tests.crash.rig.ledger import PHASES, Window
from tests.crash.rig.strike import Point, Struck, check, check_visible, judge, log_bytes, nobody_left

SIGHTS = {
    "claim": ("place/.scores.tidemill.claim", "planning"),
    "listed": ("place/.scores.tidemill/*/plan/files.arrow", "running"),
    "planned": ("place/.scores.tidemill/*/plan/plan.json", "running"),
    "scored": ("place/.scores.tidemill/*/parts/*", "committing"),
    "assembled": ("place/.scores.tidemill/*/out/data", "committing"),
    "journalled": ("place/.scores.tidemill/*/journal.json", "ended"),
    "shown": ("place/scores", "ended"),
}
"""What can be seen of a job from outside, in the order in which it comes: where, below the job's folder, and the phase
at which it must have come. Only what is new since the run was started counts: a run may find it there already."""
POLL_SECONDS = 0.005

Stamps = dict[str, tuple[int, int]]


@dataclass(kw_only=True)
class Life:
    """A job, its runs and the blows that they took."""

    job: CrashJob
    suite: str
    before: tuple[Path, ...] = ()
    """Inputs whose predictions lie at the output already."""
    values: bool = True
    """Whether the model is a function of the row key."""
    runs: int = 0
    """How often the command was started."""
    blows: list[Struck] = field(default_factory=list)
    over: bool = False
    """Whether a run has ended the job."""
    process: subprocess.Popen[str] | None = None
    """Of a run that goes on."""
    number: int = 0
    """Of the run that went on last."""
    _claim: tuple[str, int] = ("", 0)
    """The job and its epoch when that run was started."""
    _old: dict[str, Stamps] = field(default_factory=dict)
    """What could be seen of the job then."""

    def run(self, *, prefix: Sequence[str] = (), extra: Sequence[str] = ()) -> Ran:
        """Run the command to its end."""
        self.runs += 1
        ran = once(self.job, self.runs - 1, prefix=prefix, extra=extra)
        self.over = ran.code in SUCCESS
        return ran

    def once_as(self, other: CrashJob, *, extra: Sequence[str] = ()) -> Ran:
        """The next run is that of another command."""
        self.runs += 1
        return once(other, self.runs - 1, extra=extra)

    def strike(self, target: str, point: Point, *, case: str, seed: int = 0) -> Struck:
        """Kill the target at the point of a run: of the one that goes on, or else of a new one.

        Whatever of the job ends with the target is awaited; a run whose scorer or zygote was hit goes on.
        """
        with Window(self.job.database) as window:
            self.reach(window, target, point)
            look = window.look(chunks=True)
            run, struck_bytes = self.number, log_bytes(self.job, self.number)
            pid = None if self.process is None else tree.kill(self.process.pid, target)
            if target in ("worker", "group"):
                self.end()
                nobody_left(self.job)
                look, struck_bytes = window.look(chunks=True), log_bytes(self.job, run)
        hit = pid is not None and look.phase < PHASES.index("ended")
        return self.note(
            Struck(
                case=case, seed=seed, target=target, point=point, look=look, hit=hit, run=run, log_bytes=struck_bytes
            )
        )

    def freeze(self, point: Point, *, case: str, seed: int = 0) -> subprocess.Popen[str]:
        """Stop the worker at the point of a run. It is the caller's then, who may give it back."""
        with Window(self.job.database) as window:
            self.reach(window, "worker", point)
            run, struck_bytes, process = self.number, log_bytes(self.job, self.number), self.process
            assert process is not None, f"run {run} ended before it came to {point}"
            process.send_signal(signal.SIGSTOP)
            look = window.look(chunks=True)
        self.process = None
        self.note(
            Struck(
                case=case,
                seed=seed,
                target="worker",
                point=point,
                look=look,
                hit=look.live,
                run=run,
                log_bytes=struck_bytes,
            )
        )
        return process

    def strike_call(self, call: str, n: int, *, case: str, seed: int | None = None) -> Struck:
        """Run the command; the worker dies as it enters its N-th call of that name."""
        log = self.job.logs / f"kill.{self.runs}.strace"
        self.run(prefix=strace.prefix(log, [call], f"{call}:signal=KILL:when={n}"))
        return self._worker_died(f"{call} {n}", strace.killed(log), case, n if seed is None else seed)

    def strike_commit(self, n: int, *, case: str, seed: int = 0) -> Struck:
        """Run the command; the worker dies as it syncs its N-th commit of chunks. Of a job in a store that was there.

        It hands out chunks slowly, so that there are several commits, however fast the model is.
        """
        # The job, its claim, the name of the log and the plan are synced before, or only two of these.
        earlier = 2 if ledger.look(self.job.database).chunks_total else 4
        log = self.job.logs / f"kill.{self.runs}.strace"
        inject = (f"fdatasync:signal=KILL:when={earlier + n}", "sendmsg:delay_enter=100000")
        self.run(prefix=strace.prefix(log, ["fdatasync", "sendmsg"], *inject))
        return self._worker_died(f"commit {n}", strace.killed(log), case, seed)

    def end(self) -> int | None:
        """Wait until the run that goes on has ended; its exit code."""
        if self.process is None:
            return None
        code = ended(self.job, self.number, self.process).code
        self.process, self.over = None, code in SUCCESS
        return code

    def finish(self, *, again: bool = False) -> checker.Published:
        """Let the job be ended, by one more run if need be, check everything and write the records of the blows.

        With `again` the same command is run yet once more: it must score nothing and change nothing.
        """
        with self.telling():
            self.end()
            if not self.over:
                self.runs += 1
                then_done(self.job, self.runs - 1)
            first = check(self.job, self.before, values=self.values)
            if again:
                ran = self.run()
                assert ran.code in SUCCESS, ran
                assert "up to date" in (ran.stdout + ran.stderr).lower(), ran
                assert not self.job.log(self.runs - 1).exists(), "it scored something"
                assert check(self.job, self.before, values=self.values) == first
            assert not tree.marked(self.job.mark)
            judge(self.job, self.blows, self.runs, suite=self.suite)
        return first

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What goes wrong in the block tells the blows."""
        try:
            yield
        except AssertionError as problem:
            problem.add_note("\n".join(["The job was struck so:", *map(str, self.blows)]))
            raise

    def _worker_died(self, point: str, hit: bool, case: str, seed: int) -> Struck:
        nobody_left(self.job)
        run, look = self.runs - 1, ledger.look(self.job.database)
        bytes_ = log_bytes(self.job, run)
        return self.note(
            Struck(case=case, seed=seed, target="worker", point=point, look=look, hit=hit, run=run, log_bytes=bytes_)
        )

    def note(self, blow: Struck) -> Struck:
        """Keep it. Readers see nothing half, if nobody is at work."""
        self.blows.append(blow)
        if self.process is None:
            with self.telling():
                check_visible(self.job, "succeeded" if self.over else blow.look.state, self.before)
        return blow

    def reach(self, window: Window, target: str, point: Point) -> bool:
        """Have a run that comes to the point, and wait for it. False if a run ended before.

        One that went on may end badly for an earlier blow: then the next one gets there.
        """
        went_on = self.process is not None
        return self._come(window, target, point) or (went_on and self._come(window, target, point))

    def _come(self, window: Window, target: str, point: Point) -> bool:
        if self.over:
            return False
        if self.process is None:
            self._start()
        while not self._is_there(window, point) or self._lacks(target, window):
            if self.process is None or self.process.poll() is not None:
                self.end()
                return False
            time.sleep(POLL_SECONDS)
        time.sleep(point.delay)
        return True

    def _start(self) -> None:
        look = ledger.look(self.job.database)
        self._claim = (look.job_id, look.epoch)
        self._old = {sight: self._stamps(sight) for sight in SIGHTS}
        self.process, self.number = start(self.job, self.runs), self.runs
        self.runs += 1

    def _is_there(self, window: Window, point: Point) -> bool:
        if point.phase == "start":
            return True
        look = window.look()
        # A run whose planner was killed is about to end, and the next one makes another job.
        if (look.job_id, look.epoch) == self._claim or look.state in ("absent", "failed"):
            return False
        if point.phase in SIGHTS:
            _, phase = SIGHTS[point.phase]
            is_new = self._stamps(point.phase).items() - self._old[point.phase].items()
            return bool(is_new) or look.phase >= PHASES.index(phase)
        if point.phase == "again":
            return True
        goal = PHASES.index(point.phase)
        return look.phase > goal or (look.phase == goal and look.chunks_done >= point.chunks_done)

    def _lacks(self, target: str, window: Window) -> bool:
        """Whether the target is still to come: a scorer or zygote that takes the place of one that was killed."""
        assert self.process is not None
        return window.look().phase <= PHASES.index("running") and tree.find(self.process.pid, target) is None

    def _stamps(self, sight: str) -> Stamps:
        """Which files are there for a sight, and since when."""
        found: Stamps = {}
        for path in self.job.home.parent.glob(SIGHTS[sight][0]):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found[str(path)] = (stat.st_ino, stat.st_mtime_ns)
        return found


def stopping(job: CrashJob, run: int, call: str) -> strace.Stops:
    """Start the command; its worker is stopped after each call of that name."""
    log = job.logs / f"stop.{run}.strace"
    tracer = start(job, run, prefix=strace.prefix(log, [call], f"{call}:signal=STOP:when=1+"))
    return strace.Stops(tracer=tracer, log=log)
