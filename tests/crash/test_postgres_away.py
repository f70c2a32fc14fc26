"""Postgres goes away under a service and its workers: what was acknowledged is done, each row once.

The server is stopped for longer than a lease, the server ends connections one by one, and answers to COMMIT get
lost on the way.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from tests.contract.commit_proxy import Fault, proxied
from tests.crash.rig import tree
from tests.crash.rig.jobs import Jobs
from tests.crash.rig.service import Process
from tests.postgres import Server, postgres, postgres_database, postgres_url
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.access import Principal
from tidemill.service import submission
from tidemill.wire.spec import JobSpec

__all__ = ["postgres", "postgres_database", "postgres_url"]

LONG = int(os.environ.get("TIDEMILL_CRASH_SEEDS", "20")) >= 100
JOBS = 10
AWAY_SECONDS = 60 if LONG else 12
"""Longer than a lease on Postgres, which is 10 seconds."""
BACKENDS = 100 if LONG else 36
FAULTS = (Fault.ANSWER_LOST, Fault.REQUEST_LOST)
LOST = 30 if LONG else 10
"""So many commits of chunks that were made, and so many that were not."""
CHUNK_ROWS = 50
BACKLOG = 4
"""So many jobs are kept open, to have something to commit."""
PATIENCE_SECONDS = 600
"""For the slowest of machines: everything here ends when enough has happened."""

pytestmark = pytest.mark.timeout(2 * PATIENCE_SECONDS)


class Service:
    """`tidemill serve`, which runs jobs as well, and a `tidemill worker` beside it."""

    def __init__(self, folder: Path, url: str, mark: str) -> None:
        home, logs, environment = folder / "home", folder / "logs", {"TIDEMILL_STORE": url, "CRASH_MARK": mark}
        home.mkdir()
        self.server, self.worker = (
            Process(home=home, logs=logs, words=words, environment=environment)
            for words in (("serve", "--port", "0"), ("worker",))
        )
        self.client = self.server.client()
        self.told_away: Counter[str] = Counter()
        """How often each request was told to come again."""

    def ask(self, method: str, path: str, **words: Any) -> httpx2.Response | None:
        """One request. None if it was told, as it should be, to come again when the store answers."""
        answer = self.client.request(method, path, **words)
        assert answer.status_code in (200, 202, 503), answer.text
        if answer.status_code != 503:
            return answer
        assert int(answer.headers["Retry-After"]) > 0
        self.told_away[f"{method} {path}"] += 1
        return None

    def submit(self, jobs: Jobs, **options: Any) -> None:
        """Until it is acknowledged: with its key, it is one job however often it is sent."""
        words, key = jobs.words(**options), uuid.uuid4().hex
        answer = until(lambda: self.ask("POST", "/jobs", json=words, headers={"Idempotency-Key": key}))
        assert answer.status_code == 202
        jobs.acknowledged[answer.json()["id"]] = words

    def end(self) -> list[int]:
        """SIGTERM to both; their exit codes."""
        self.client.close()
        return [process.end() for process in (self.server, self.worker)]


def until(ask: Callable[[], Any]) -> Any:
    """Ask until the answer is something."""
    stop = time.monotonic() + PATIENCE_SECONDS
    while not (found := ask()):
        assert time.monotonic() < stop, "it did not come to that"
        time.sleep(0.05)
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    """Of all processes of a test, none of which outlives it."""
    made = uuid.uuid4().hex
    yield made
    tree.end_all(made)


@pytest.fixture
def jobs(tmp_path: Path, postgres_url: str) -> Jobs:
    return Jobs(tmp_path, postgres_url)


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The server is down in the block."""
    server.stop()
    try:
        yield
    finally:
        server.start()


def test_postgres_is_down_and_then_ends_connections(jobs: Jobs, mark: str, postgres: Server) -> None:
    service = Service(jobs.folder, jobs.url, mark)
    gate = jobs.folder / "gate"
    for _ in range(JOBS):
        service.submit(jobs, gate=str(gate))
    until(jobs.busy)
    with stopped(postgres):
        # From here on chunks are finished, and there is nobody to commit them to.
        gate.touch()
        _check_it_is_told(service, jobs)
    until(lambda: service.ask("GET", "/ready"))
    assert jobs.open_ones()
    _end_connections(service, jobs)
    until(lambda: not jobs.open_ones())
    assert service.end() == [0, 0]
    assert not tree.marked(mark)
    jobs.check()


def _check_it_is_told(service: Service, jobs: Jobs) -> None:
    """While the store is away each request is answered: come again."""
    known, new = next(iter(jobs.acknowledged)), jobs.words()
    stop = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < stop:
        for path in ("/jobs", f"/jobs/{known}", "/ready", "/health"):
            assert service.ask("GET", path) is None, path
        assert service.ask("POST", "/jobs", json=new) is None
        time.sleep(0.5)
    assert len(service.told_away) == 5


def _end_connections(service: Service, jobs: Jobs) -> None:
    """The server ends a random one, and another one, while jobs come in and run."""
    rng, ended = random.Random("backends"), 0
    mine = "application_name = 'tidemill' AND backend_type = 'client backend' AND datname = current_database()"
    with psycopg.connect(jobs.url, autocommit=True) as connection:
        while ended < BACKENDS:
            if jobs.open_ones() < JOBS // 2:
                service.submit(jobs, nap=0.1)
            pids = [pid for (pid,) in connection.execute(f"SELECT pid FROM pg_stat_activity WHERE {mine} ORDER BY 1")]
            if pids:
                told = connection.execute("SELECT pg_terminate_backend(%s)", [rng.choice(pids)]).fetchone()
                ended += told == (True,)
            time.sleep(0.1)


class Losses:
    """A COMMIT gets lost now and then, or its answer, and of those that carry chunks every second one, until enough
    of these did. At random: else a worker that tries again could meet the same loss for ever."""

    def __init__(self) -> None:
        self.rng = random.Random("losses")
        self.of_chunks: Counter[Fault] = Counter()

    def choose(self, said: bytes) -> Fault | None:
        # A receipt is in it.
        carries_chunks = b'"attempt"' in said
        if self.enough() or self.rng.random() > (0.5 if carries_chunks else 0.2):
            return None
        fault = min(FAULTS, key=lambda fault: (self.of_chunks[fault], self.rng.random()))
        self.of_chunks[fault] += carries_chunks
        return fault

    def enough(self) -> bool:
        return all(self.of_chunks[fault] >= LOST for fault in FAULTS)


def test_a_worker_whose_commits_get_lost(jobs: Jobs, mark: str, postgres: Server) -> None:
    """It finds out what became of each: no chunk is missing, none is scored again, and it keeps its jobs."""
    settings = Settings(home=jobs.folder / "home", store=jobs.url)
    losses = Losses()
    with proxied(postgres.folder / ".s.PGSQL.5432", losses.choose) as proxy:
        environment = {"TIDEMILL_STORE": proxy.url(jobs.url), "TIDEMILL_LEASE_SECONDS": "300", "CRASH_MARK": mark}
        worker = Process(home=settings.home, logs=jobs.folder / "logs", words=("worker",), environment=environment)
        stop = time.monotonic() + PATIENCE_SECONDS
        while not losses.enough() or jobs.open_ones():
            assert time.monotonic() < stop and worker.process.poll() is None, worker.stderr.read_text()
            if not losses.enough() and jobs.open_ones() < BACKLOG:
                _submit(jobs, settings)
            time.sleep(0.1)
        assert worker.end() == 0
    assert not tree.marked(mark)
    jobs.check()
    assert jobs.rows("SELECT max(epoch) FROM jobs") == [(1,)]
    calls = [Counter(log.read_text().splitlines()) for log in (jobs.folder / "calls").iterdir()]
    assert len(calls) == len(jobs.acknowledged)
    for each in calls:
        # Calls with fewer rows look for a row that is refused.
        again = {call for call, times in each.items() if times > 1 and call.endswith(f" {CHUNK_ROWS}")}
        assert not again, again


def _submit(jobs: Jobs, settings: Settings) -> None:
    (jobs.folder / "calls").mkdir(exist_ok=True)
    log = jobs.folder / "calls" / uuid.uuid4().hex
    words = jobs.words(rows_per_chunk=CHUNK_ROWS, nap=0.1, log=str(log))
    with opened(settings, children=False) as context:
        job, _ = submission.submit(context, Principal(name="tester"), JobSpec.model_validate(words))
    jobs.acknowledged[job.id] = words
