"""A thousand schedules due at once, and three schedulers that look at them."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any

from tests.integration.schedules.conftest import HOUR, MINUTE, Timed, every
from tidemill.bootstrap.wiring import opened
from tidemill.config import Settings
from tidemill.domain.ids import new_id
from tidemill.domain.schedule import FiringState
from tidemill.service import scheduler

MANY = 1000 if os.environ.get("TIDEMILL_TEST_LONG") else 120
SERVERS = 3
ROUNDS = 2


def test_many_at_once_on_three_servers(house: Timed, store_words: dict[str, Any]) -> None:
    added = [house.schedule(f"s{number:04d}", trigger=every(3600), id=new_id("sched")) for number in range(MANY)]
    settings = Settings(home=house.folder / "home", cores=2, data_roots=[house.folder / "data"], **store_words)
    with ExitStack() as stack:
        contexts = [stack.enter_context(opened(settings, children=False)) for _ in range(SERVERS)]
        for number in range(1, ROUNDS + 1):
            at, start = house.now + number * HOUR + MINUTE / 2, threading.Barrier(SERVERS)

            def look(server: int, at: Any = at, start: threading.Barrier = start) -> None:
                start.wait()
                while contexts[server].store.schedules.list_due(at, limit=1):
                    scheduler.tick(contexts[server], at)

            threads = [threading.Thread(target=look, args=(server,)) for server in range(SERVERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    fired = [firing for schedule in added for firing in house.firings(schedule)]
    assert Counter(firing.due for firing in fired) == {house.now + hour * HOUR: MANY for hour in range(1, ROUNDS + 1)}
    assert Counter(firing.state for firing in fired) == {FiringState.STARTED: MANY, FiringState.SKIPPED: MANY}
    started = [firing.job_id for firing in fired if firing.job_id is not None]
    assert len(set(started)) == MANY
    jobs, before = set[str](), None
    while page := house.context.store.jobs.list(limit=500, before=before):
        jobs |= {job.id for job in page}
        before = page[-1].id
    assert jobs == set(started)
