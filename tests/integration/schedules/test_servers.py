"""Three `tidemill serve` on one store; one is killed. And how soon a pause is felt."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.api.house import opened_house
from tests.integration.api.test_serve import MOST_SECONDS, serving
from tests.integration.schedules.conftest import SECOND, Timed, every
from tidemill.domain.schedule import CatchUp

STORES = ["sqlite", "postgres"] if os.environ.get("TIDEMILL_TEST_LONG") else ["sqlite"]
PAUSE_SECONDS = 2.0
NAMES = [f"s{number}" for number in range(5)]


@pytest.fixture(params=STORES)
def store_words(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {} if request.param == "sqlite" else {"store": request.getfixturevalue("given_postgres_url")}


@pytest.fixture
def house(tmp_path: Path, store_words: dict[str, Any]) -> Iterator[Timed]:
    with opened_house(tmp_path, **store_words) as opened:
        opened.model()
        yield Timed.of(opened)


def test_three_servers_of_which_one_is_killed(house: Timed, store_words: dict[str, Any]) -> None:
    environment = {"TIDEMILL_STORE": store_words["store"]} if store_words else {}
    house.now = datetime.now(UTC).replace(microsecond=0)
    added = [house.schedule(name, trigger=every(1, house.now), catch_up=CatchUp.ALL) for name in NAMES]
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(house.folder / "home", "--no-jobs", **environment)) for _ in range(3)]
        wait_for_due(house, datetime.now(UTC) + 3 * SECOND)
        servers[0][0].kill()
        wait_for_due(house, datetime.now(UTC) + 3 * SECOND)
        paused = httpx2.post(f"{servers[1][1]}/api/v1/schedules/s0/pause", timeout=MOST_SECONDS)
        assert paused.status_code == 200 and paused.json()["paused"]
        felt = house.context.store.schedules.now() + timedelta(seconds=PAUSE_SECONDS)
        wait_for_due(house, datetime.now(UTC) + 5 * SECOND, "s1")
    for schedule in added:
        dues = [each.due for each in house.firings(schedule)]
        assert dues == [house.now + number * SECOND for number in range(1, len(dues) + 1)], schedule.name
        assert len([each for each in house.firings(schedule) if each.job_id is not None]) == 1
    assert len(house.context.store.jobs.list()) == len(NAMES)
    assert all(each.fired_at <= felt for each in house.firings(added[0]))
    assert any(each.fired_at > felt for each in house.firings(added[1]))


def wait_for_due(house: Timed, moment: datetime, name: str = "s0") -> None:
    """Until that schedule has fired for a due time not before the moment."""
    schedule = house.context.store.schedules.get("default", name)
    stop = time.monotonic() + MOST_SECONDS
    while not any(each.due >= moment for each in house.context.store.firings.list(schedule.id, limit=1)):
        assert time.monotonic() < stop, "nothing fires"
        time.sleep(0.1)
