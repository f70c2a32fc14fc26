"""Three workers on one Postgres and many jobs, while workers are killed and frozen: each row is there once.

Every second a random worker is killed with SIGKILL and started again, or stopped for one and a half
leases. Others freeze themselves in the middle of a commit or of publishing (`rig/freezer.py`), until
their jobs were taken over, and go on then: what they do after that must change nothing. It goes on until
enough of all that has happened; how much is in build/many_workers.json.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.crash.rig import record, tree
from tests.crash.rig.freezer import PLACES
from tests.crash.rig.job import MODELS, ROOT, SOURCE
from tests.crash.rig.jobs import Jobs
from tests.postgres import postgres, postgres_database, postgres_url
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import Principal
from tidemill.domain.errors import StoreUnavailable
from tidemill.service import retention, submission
from tidemill.service.context import Context
from tidemill.wire.spec import JobSpec

__all__ = ["postgres", "postgres_database", "postgres_url"]

SEEDS = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20"))
LONG = SEEDS >= 100
WORKERS = 3
JOBS = 200 if LONG else 24
BACKLOG = 4 * WORKERS
"""So many jobs are kept open, to have something to take."""
KILLS = 60 if LONG else 6
STOPS = 20 if LONG else 2
THAWS = 20 if LONG else 3
ZOMBIES = 5 if LONG else 2
"""Of those that thaw, so many must have lost their job to another worker."""
ATTEMPTS = 5
LEASE_SECONDS = 2.0
FROZEN_SECONDS = 1.5 * LEASE_SECONDS
PATIENCE_SECONDS = 10 * LEASE_SECONDS
"""So long a frozen worker stands still if nobody takes its jobs."""
FREEZER = ROOT / "tests" / "crash" / "rig" / "freezer.py"
LIMIT_SECONDS = 3600 if LONG else 900
"""For the slowest of machines: it ends when enough has happened."""


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
    began: set[int] = field(default_factory=set)
    """Processes that were seen to hold a job."""
    did: Counter[str] = field(default_factory=Counter)
    places: Iterator[str] = field(init=False)
    """Where to freeze next. Without an end: one that is killed while it is frozen tells nothing."""

    def __post_init__(self) -> None:
        for name in ("tokens", "logs", "tmp"):
            (self.folder / name).mkdir()
        # Where most depends on what happens after the thaw comes first.
        first = ["commit before", "publish before"]
        self.places = itertools.chain(first, itertools.cycle(self.rng.sample(PLACES, len(PLACES))))
        self.processes = [self.start() for _ in range(WORKERS)]

    @property
    def thaw_log(self) -> Path:
        return self.folder / "thaws.jsonl"

    def start(self) -> subprocess.Popen[bytes]:
        number = len(list((self.folder / "logs").iterdir()))
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
        """Kill or stop a worker that has something to lose, if another one goes on and can take over."""
        may_freeze = len(self.stopped) < WORKERS - 1
        if may_freeze and not self.thawed_enough() and not any((self.folder / "tokens").iterdir()):
            (self.folder / "tokens" / next(self.places)).touch()
        wanted = ["kill"] * max(0, KILLS - self.did["kill"])
        wanted += ["stop"] * max(0, STOPS - self.did["stop"]) * may_freeze
        able = [process for process in self.processes if process.pid in busy and not _stands_still(process.pid)]
        if len(able) < 2 or not wanted:
            return
        victim, deed = self.rng.choice(able), self.rng.choice(wanted)
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
        self.began |= busy
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

    def thawed_enough(self) -> bool:
        thaws = self.thaws()
        return len(thaws) >= THAWS and len(zombies(thaws)) >= ZOMBIES and kinds(thaws) == {"commit", "publish"}

    def enough(self) -> bool:
        return self.did["kill"] >= KILLS and self.did["stop"] >= STOPS and self.thawed_enough()

    def rest(self) -> None:
        """From now on nobody freezes."""
        for token in (self.folder / "tokens").iterdir():
            token.unlink(missing_ok=True)

    def end(self) -> list[int]:
        """SIGTERM to all that ever held a job; their exit codes. One that is still starting is killed: it may not know
        signals yet."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM if process.pid in self.began else signal.SIGKILL)
        codes = {process.pid: process.wait(timeout=60) for process in self.processes}
        return [code for pid, code in codes.items() if pid in self.began]


def zombies(thaws: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that another worker had taken the job from when they went on."""
    return [thaw for thaw in thaws if thaw["epoch_then"] > thaw["epoch"]]


def kinds(thaws: Sequence[dict[str, Any]]) -> set[str]:
    return {thaw["place"].split()[0] for thaw in thaws}


def _stands_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    except (OSError, IndexError):
        return False


@pytest.fixture
def jobs(tmp_path: Path, postgres_url: str) -> Jobs:
    (tmp_path / "home").mkdir()
    return Jobs(tmp_path, postgres_url)


@pytest.fixture
def context(tmp_path: Path, postgres_url: str) -> Iterator[Context]:
    settings = Settings(home=tmp_path / "home", store=postgres_url, lease_seconds=LEASE_SECONDS, heartbeat_seconds=0.4)
    with opened(settings) as made:
        yield made


@pytest.fixture
def fleet(tmp_path: Path, postgres_url: str) -> Iterator[Fleet]:
    made = Fleet(folder=tmp_path, url=postgres_url, rng=random.Random("many workers"))
    yield made
    for process in made.processes:
        process.kill()
        process.wait(timeout=30)
    tree.end_all(made.mark)


def _submitted(context: Context, words: dict[str, Any]) -> str:
    """The job's id. A store that is too busy says so, and whoever submits tries again with the same key."""
    key = uuid.uuid4().hex
    for _ in range(ATTEMPTS - 1):
        with suppress(StoreUnavailable):
            return _submit(context, words, key)
    return _submit(context, words, key)


def _submit(context: Context, words: dict[str, Any], key: str) -> str:
    spec = JobSpec.model_validate(words)
    job, _ = submission.submit(context, Principal(name="tester"), spec, idempotency_key=key)
    return job.id


@pytest.mark.timeout(LIMIT_SECONDS)
def test_many_jobs_while_workers_are_killed_and_frozen(jobs: Jobs, context: Context, fleet: Fleet) -> None:
    stop = time.monotonic() + LIMIT_SECONDS - 60
    struck = 0.0
    while not (enough := fleet.enough() and len(jobs.acknowledged) >= JOBS) or jobs.open_ones() or fleet.stopped:
        assert time.monotonic() < stop, _story(fleet, jobs)
        if not enough and jobs.open_ones() < BACKLOG:
            words = jobs.words(nap=0.05)
            jobs.acknowledged[_submitted(context, words)] = words
        busy = jobs.busy()
        fleet.thaw(busy)
        if enough:
            fleet.rest()
        elif time.monotonic() - struck >= 1.0:
            fleet.strike(busy)
            struck = time.monotonic()
        time.sleep(0.05)
    codes = fleet.end()
    record.BUILD.mkdir(parents=True, exist_ok=True)
    (record.BUILD / "many_workers.json").write_text(json.dumps(_story(fleet, jobs), indent=2) + "\n")
    assert codes and not any(codes)
    # What a worker left that was killed between the store's last word and clearing up.
    retention.sweep(context, datetime.now(UTC))
    assert not tree.marked(fleet.mark)
    jobs.check()
    _check_zombies(fleet.thaws(), jobs)
    assert not list((fleet.folder / "tmp").iterdir())


def _check_zombies(thaws: Sequence[dict[str, Any]], jobs: Jobs) -> None:
    """They froze for long enough, and what they did after they had lost the job changed nothing: no commit was
    taken, nothing was published that another one had not stored before."""
    assert all(thaw["seconds"] >= FROZEN_SECONDS * 0.99 for thaw in thaws)
    for thaw in zombies(thaws):
        if thaw["place"] == "commit before":
            assert thaw["result"] in ("False", "LeaseLost"), thaw
        elif thaw["place"] == "publish before":
            assert thaw["result"] == "LeaseLost", thaw
        late = "SELECT chunk FROM chunks WHERE job_id = %s AND epoch = %s AND committed_at_ms > %s"
        assert not jobs.rows(late, thaw["job"], thaw["epoch"], round(thaw["frozen_at"] * 1000) + 1), thaw


def _story(fleet: Fleet, jobs: Jobs) -> dict[str, Any]:
    """What happened, in figures."""
    thaws = fleet.thaws()
    [(most_epochs, takeovers)] = jobs.rows("SELECT max(epoch), sum(epoch - 1)::int FROM jobs")
    return {
        "workers": WORKERS,
        "lease_seconds": LEASE_SECONDS,
        "jobs": dict(jobs.rows("SELECT state, count(*) FROM jobs GROUP BY state")),
        "kills": fleet.did["kill"],
        "stops": fleet.did["stop"],
        "thaws": len(thaws),
        "zombies": len(zombies(thaws)),
        "takeovers": takeovers,
        "most_epochs": most_epochs,
        "thaws_by_place": Counter(thaw["place"] for thaw in thaws),
        "zombies_by_place_and_result": Counter(f"{thaw['place']}: {thaw['result'][:30]}" for thaw in zombies(thaws)),
    }
