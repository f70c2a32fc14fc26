"""Two `tidemill serve` on one store, files that keep coming, and one server that is killed again and again."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

import httpx2

from tests.integration.api.test_serve import MOST_SECONDS, serving
from tests.integration.series.lake import Lake

WAVES = 12 if os.environ.get("TIDEMILL_TEST_LONG") else 2
FILES_PER_WAVE = 3


def test_files_that_keep_coming_are_scored_once(lake: Lake, store: str | None) -> None:
    environment = {"TIDEMILL_LEASE_SECONDS": "2", "TIDEMILL_HEARTBEAT_SECONDS": "0.4"}
    if store is not None:
        environment["TIDEMILL_STORE"] = store
    wanted = {
        "name": "arriving",
        "spec": lake.spec("all", mode="append").model_dump(mode="json"),
        "trigger": {"kind": "new_files", "look": {"kind": "interval", "every": "1s"}},
    }
    with ExitStack() as stack:
        _, url = stack.enter_context(serving(lake.folder / "home", **environment))
        added = httpx2.post(f"{url}/api/v1/schedules", json=wanted, timeout=MOST_SECONDS)
        assert added.status_code == 201, added.text
        names = []
        for wave in range(WAVES):
            with serving(lake.folder / "home", **environment) as (other, _):
                for number in range(FILES_PER_WAVE):
                    names.append(lake.write(f"{wave}-{number}.parquet").name)
                    time.sleep(0.3)
                time.sleep(0.4 * (wave % 3))
                other.kill()
        stop = time.monotonic() + MOST_SECONDS
        while (found := recorded(url))["files"] < len(names) or found["holder"] is not None:
            assert time.monotonic() < stop, found
            time.sleep(0.2)
        firings = httpx2.get(f"{url}/api/v1/schedules/arriving/firings", params={"limit": 500}).json()["items"]
    assert {each["job_state"] for each in firings} == {"succeeded"}
    assert len(firings) == found["jobs"]
    assert lake.scored("all") == {(name, 1): 1 for name in names}


def recorded(url: str) -> dict[str, object]:
    answer = httpx2.get(f"{url}/api/v1/series/lake", timeout=MOST_SECONDS)
    return answer.json() if answer.status_code == 200 else {"files": 0, "holder": None}
