"""What jobs used and what it costs, by model and by key: one's own tenant's only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.integration.api.house import House, client_of, opened_house
from tidemill.domain.access import Principal, Role
from tidemill.domain.job import Job
from tidemill.domain.receipt import Usage
from tidemill.testing.store import new_receipt

USAGE = "/api/v1/usage"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """With a rate card."""
    with opened_house(tmp_path, data_roots=[tmp_path / "data"], rate_cpu_hour=3.6, rate_job=1.0) as opened:
        opened.model()
        yield opened


@pytest.fixture
def client(house: House) -> Iterator[TestClient]:
    with client_of(house) as opened:
        yield opened


def work(house: House, who: Principal | None = None, *, cpu_seconds: float, **words: str) -> Job:
    job = house.submit(who, **words)
    lease = house.run(job, committed=0)
    usage = Usage(cpu_seconds=cpu_seconds, model_cpu_seconds=1.0, input_bytes=10)
    house.context.store.ledger.commit_chunks_if_current(lease, [new_receipt(0, rejected=1, usage=usage)])
    return house.again(job)


def test_usage_by_model_with_its_cost(house: House, client: TestClient) -> None:
    house.model("fraud")
    for seconds in (100.0, 200.0):
        work(house, cpu_seconds=seconds)
    work(house, cpu_seconds=1000.0, model="fraud@1")
    told = client.get(USAGE).json()
    assert [(each["of"], each["jobs"], each["predicted"], each["rejected"]) for each in told["items"]] == [
        ("fraud", 1, 9, 1), ("churn", 2, 18, 2),
    ]  # fmt: skip
    churn = told["items"][1]["usage"]
    assert (churn["cpu_seconds"], churn["cpu_by_stage"]["model"], churn["input_bytes"]) == (300.0, 2.0, 20)
    assert churn["cost"] == {"amount": pytest.approx(2 * 1.0 + 0.3), "currency": "USD"}
    assert told["truncated"] is False
    first = client.get(USAGE, params={"limit": 1}).json()
    assert ([each["of"] for each in first["items"]], first["truncated"]) == (["fraud"], True)


def test_a_key_sees_its_own_tenants_usage(house: House) -> None:
    house.model("churn", "red")
    (one, key), (two, _), (_, red_key) = house.key(), house.key(), house.key(Role.VIEWER, "red")
    boss, _ = house.key(Role.ADMIN, "red")
    work(house, one, cpu_seconds=1.0)
    work(house, two, cpu_seconds=2.0)
    work(house, boss, cpu_seconds=3.0)
    with client_of(house, key=key) as client:
        told = client.get(USAGE, params={"by": "key"}).json()["items"]
    assert [(each["of"], each["usage"]["cpu_seconds"]) for each in told] == [(two.id, 2.0), (one.id, 1.0)]
    with client_of(house, key=red_key) as client:
        told = client.get(USAGE, params={"by": "key"}).json()["items"]
    assert [(each["of"], each["usage"]["cpu_seconds"]) for each in told] == [(boss.id, 3.0)]


def test_usage_since_a_moment(house: House, client: TestClient) -> None:
    job = work(house, cpu_seconds=1.0)
    asked = {"2026-01-01T00:00:00Z": 1, job.created_at.isoformat(): 1, "2999-01-01T00:00:00+02:00": 0}
    for since, jobs in asked.items():
        items = client.get(USAGE, params={"since": since}).json()["items"]
        assert sum(each["jobs"] for each in items) == jobs, since
    for query in ({"since": "2026-01-01"}, {"by": "colour"}):
        assert client.get(USAGE, params=query).status_code == 422
