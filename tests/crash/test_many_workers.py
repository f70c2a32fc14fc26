"""Three workers on one Postgres and many jobs, while workers are killed and frozen: each row is there once.

Every second a random worker is killed with SIGKILL and started again, or stopped for one and a half
leases. Others freeze themselves in the middle of a commit or of publishing (`rig/freezer.py`), until
their jobs were taken over, and go on then: what they do after that must change nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import checker
from tests.crash.rig import tree
from tests.crash.rig.freezer import PLACES
from tests.crash.rig.job import MODELS, ROOT, SOURCE, write_inputs
from tests.postgres import postgres, postgres_database, postgres_url
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import Principal
from tidemill.service import retention, submission
from tidemill.wire.spec import ComputeSpec, InputSpec, JobSpec, LimitsSpec, OutputSpec, PredictSpec

__all__ = ["postgres", "postgres_database", "postgres_url"]

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
LONG = SEEDS >= 100
WORKERS = 3
JOBS = 200 if LONG else 24
KILLS = 60 if LONG else 6
STOPS = 20 if LONG else 2
THAWS = 20 if LONG else 3
LEASE_SECONDS = 2.0
FROZEN_SECONDS = 1.5 * LEASE_SECONDS
PATIENCE_SECONDS = 3 * LEASE_SECONDS
"""So long a frozen worker stands still if nobody takes its jobs."""
FREEZER = ROOT / "tests" / "crash" / "rig" / "freezer.py"
ROWS = (420, 380)
ROWS_PER_CHUNK = 250
INPUTS = 4
"""So many different inputs: a prediction also proves which job it belongs to."""


@dataclass(kw_only=True)
class Fleet:
    """Worker processes, and what is done to them."""

    folder: Path
    url: str
    rng: random.Random
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stopped: dict[int, float] = field(default_factory=dict)
    """When each process was seen or made to stand still."""
    did: Counter[str] = field(default_factory=Counter)
    tokens_left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("tokens", "logs", "tmp"):
            (self.folder / name).mkdir()
        self.tokens_left = [PLACES[n % len(PLACES)] for n in range(2 * THAWS)]
        self.rng.shuffle(self.tokens_left)
        # Where most depends on what happens after the thaw comes first.
        self.tokens_left += ["publish before", "commit before"]
        self.processes = [self.start() for _ in range(WORKERS)]

    @property
    def thaw_log(self) -> Path:
        return self.folder / "thaws.jsonl"

    def start(self) -> subprocess.Popen[bytes]:
        number = sum(self.did.values()) + len(self.processes)
        with (self.folder / "logs" / f"worker-{number:04d}.err").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, FREEZER, self.folder / "tokens", self.thaw_log, "worker", "--jobs", "2"],
                env={
                    **os.environ,
                    "PYTHONPATH": f"{SOURCE}:{MODELS}",
                    "TIDEMILL_HOME": str(self.folder / "home"),
                    "TIDEMILL_STORE": self.url,
                    "TIDEMILL_LEASE_SECONDS": str(LEASE_SECONDS),
                    "TIDEMILL_HEARTBEAT_SECONDS": "0.4",
                    "TMPDIR": str(self.folder / "tmp"),
                    "CRASH_MARK": self.mark,
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )

    def strike(self, busy: set[int]) -> None:
        """Kill or stop a worker that has something to lose."""
        if self.tokens_left and not any((self.folder / "tokens").iterdir()):
            (self.folder / "tokens" / self.tokens_left.pop()).touch()
        able = [process for process in self.processes if process.pid in busy and process.pid not in self.stopped]
        if not able:
            return
        victim = self.rng.choice(able)
        wanted = ["kill"] * max(0, KILLS - self.did["kill"]) + ["stop"] * max(0, STOPS - self.did["stop"])
        deed = self.rng.choice(wanted or ["kill"])
        self.did[deed] += 1
        if deed == "stop":
            victim.send_signal(signal.SIGSTOP)
            self.stopped[victim.pid] = time.monotonic()
            return
        victim.kill()
        victim.wait(timeout=30)
        self.processes[self.processes.index(victim)] = self.start()

    def thaw(self, busy: set[int]) -> None:
        """Let go on what stood still long enough: best when its jobs were taken over."""
        for process in self.processes:
            if process.pid not in self.stopped and _stands_still(process.pid):
                self.stopped[process.pid] = time.monotonic()
        for pid, since in list(self.stopped.items()):
            frozen = time.monotonic() - since
            if frozen >= PATIENCE_SECONDS or (frozen >= FROZEN_SECONDS and pid not in busy):
                del self.stopped[pid]
                os.kill(pid, signal.SIGCONT)

    def thaws(self) -> list[dict[str, Any]]:
        """Thaws inside a commit or publish that those who froze themselves lived to tell of."""
        if not self.thaw_log.exists():
            return []
        return [json.loads(line) for line in self.thaw_log.read_text().splitlines()]

    def enough(self) -> bool:
        return self.did["kill"] >= KILLS and self.did["stop"] >= STOPS and len(self.thaws()) >= THAWS

    def rest(self) -> None:
        """From now on nobody freezes."""
        for token in (self.folder / "tokens").iterdir():
            token.unlink(missing_ok=True)

    def end(self) -> list[int]:
        """SIGTERM to all; their exit codes."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        return [process.wait(timeout=60) for process in self.processes]


def _stands_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    except (OSError, IndexError):
        return False


class Jobs:
    """What was submitted, and what the database says of it, by plain SQL."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.inputs = [tuple(write_inputs(folder / f"in{n}", rows=ROWS, first=10 * n)) for n in range(INPUTS)]
        self.outputs: dict[str, tuple[Path, tuple[Path, ...]]] = {}
        self.settings = Settings(home=folder / "home", store=url, lease_seconds=LEASE_SECONDS, heartbeat_seconds=0.4)

    def submit(self, count: int) -> None:
        with opened(self.settings, children=False) as context:
            for _ in range(count):
                number = len(self.outputs)
                inputs = self.inputs[number % INPUTS]
                # Each in a folder of its own: nothing else may lie there in the end.
                output = self.folder / "out" / f"{number:04d}" / "scores"
                spec = JobSpec(
                    model=f"{MODELS / 'pooled.py'}:Pooled",
                    input=InputSpec(path=[str(path) for path in inputs]),
                    output=OutputSpec(path=str(output)),
                    keep=["file_no", "row_no", "note"],
                    predict=PredictSpec(options={"nap": 0.05}),
                    compute=ComputeSpec(scorers=1, rows_per_chunk=ROWS_PER_CHUNK, batch_rows=ROWS_PER_CHUNK),
                    limits=LimitsSpec(rejected="none"),
                )
                job, _ = submission.submit(context, Principal(name="tester"), spec)
                self.outputs[job.id] = (output, inputs)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query, values).fetchall()  # type: ignore[arg-type]

    def open_ones(self) -> int:
        moving = "state IN ('queued', 'planning', 'running', 'committing')"
        return int(self.rows(f"SELECT count(*) FROM jobs WHERE {moving}")[0][0])

    def busy(self) -> set[int]:
        """Process ids of workers that hold a job."""
        held = "SELECT DISTINCT w.pid FROM jobs j JOIN workers w ON w.id = j.worker_id WHERE j.token IS NOT NULL"
        return {pid for (pid,) in self.rows(held)}

    def sweep(self) -> None:
        """What a worker left that was killed between the store's last word and clearing up."""
        with opened(self.settings, children=False) as context:
            print(retention.sweep(context, datetime.now(UTC)))

    def check(self) -> None:
        """Each job ended well, its chunks add up, and its output is what its input and the model demand."""
        states = dict(self.rows("SELECT id, state FROM jobs"))
        assert set(states) == set(self.outputs)
        errors = self.rows("SELECT id, state, error FROM jobs WHERE state NOT LIKE 'succeeded%%'")
        assert not errors, errors[:3]
        torn = self.rows(
            "SELECT j.id FROM jobs j JOIN chunks c ON c.job_id = j.id GROUP BY j.number"
            " HAVING count(*) <> j.chunks_total OR j.chunks_done <> j.chunks_total OR sum(c.rows) <> j.rows_total"
            " OR sum(c.predicted) <> j.rows_predicted OR max(c.epoch) > j.epoch"
        )
        assert not torn, torn[:3]
        for job_id, (output, inputs) in self.outputs.items():
            found = checker.check(inputs, output)
            assert found.rows == sum(ROWS)
            assert checker.read_manifest(output)["job_id"] == job_id


@pytest.fixture
def jobs(tmp_path: Path, postgres_url: str) -> Jobs:
    (tmp_path / "home").mkdir()
    return Jobs(tmp_path, postgres_url)


@pytest.fixture
def fleet(tmp_path: Path, postgres_url: str) -> Iterator[Fleet]:
    made = Fleet(folder=tmp_path, url=postgres_url, rng=random.Random("many workers"))
    yield made
    for process in made.processes:
        process.kill()
        process.wait(timeout=30)
    tree.end_all(made.mark)


@pytest.mark.timeout(1500 if LONG else 300)
def test_many_jobs_while_workers_are_killed_and_frozen(jobs: Jobs, fleet: Fleet) -> None:
    jobs.submit(JOBS)
    stop = time.monotonic() + (1400 if LONG else 280)
    struck = 0.0
    while not fleet.enough() or jobs.open_ones() or fleet.stopped:
        assert time.monotonic() < stop, _story(fleet, jobs)
        if not fleet.enough() and jobs.open_ones() < 2 * WORKERS:
            jobs.submit(2 * WORKERS)
        busy = jobs.busy()
        fleet.thaw(busy)
        if fleet.enough():
            fleet.rest()
        elif time.monotonic() - struck >= 1.0:
            fleet.strike(busy)
            struck = time.monotonic()
        time.sleep(0.1)
    codes = fleet.end()
    print(_story(fleet, jobs))
    assert codes == [0] * WORKERS
    assert not tree.marked(fleet.mark)
    jobs.sweep()
    jobs.check()
    _check_zombies(fleet.thaws(), jobs)
    assert not list((fleet.folder / "tmp").iterdir())


def _check_zombies(thaws: list[dict[str, Any]], jobs: Jobs) -> None:
    """They froze for long enough, at both kinds of place, and what they did after they had lost the job changed
    nothing: no commit was taken, nothing was published that another one had not stored before."""
    assert len(thaws) >= THAWS
    assert all(thaw["seconds"] >= FROZEN_SECONDS * 0.99 for thaw in thaws)
    assert {thaw["place"].split()[0] for thaw in thaws} == {"commit", "publish"}
    lost = [thaw for thaw in thaws if thaw["epoch_then"] > thaw["epoch"]]
    assert len(lost) >= len(thaws) // 4, thaws
    for thaw in lost:
        if thaw["place"] == "commit before":
            assert thaw["result"] in ("False", "LeaseLost"), thaw
        elif thaw["place"] == "publish before":
            assert thaw["result"] == "LeaseLost", thaw
        late = "SELECT chunk FROM chunks WHERE job_id = %s AND epoch = %s AND committed_at_ms > %s"
        assert not jobs.rows(late, thaw["job"], thaw["epoch"], round(thaw["frozen_at"] * 1000) + 1), thaw


def _story(fleet: Fleet, jobs: Jobs) -> str:
    thaws = Counter((thaw["place"], thaw["result"][:30]) for thaw in fleet.thaws())
    states = dict(jobs.rows("SELECT state, count(*) FROM jobs GROUP BY state"))
    epochs = jobs.rows("SELECT max(epoch), sum(epoch - 1) FROM jobs")
    return f"{dict(fleet.did)}; thaws {dict(thaws)}; jobs {states}; (most epochs, takeovers) {epochs}"
