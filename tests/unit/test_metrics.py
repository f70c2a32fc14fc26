"""Figures for Prometheus: right, within few labels, and listed in the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import tidemill
from tidemill.domain.admission import Needs
from tidemill.domain.job import JobState
from tidemill.domain.receipt import Usage
from tidemill.ports.store import Store, WorkerFacts
from tidemill.stores.sql.store import open_store
from tidemill.telemetry.metrics import Metrics, render
from tidemill.testing.store import new_job, new_plan, new_receipt, new_webhook
from tidemill.testing.store.factories import KEY_ID

STATES = ("waiting", "delivered", "given_up")
ROOT = Path(__file__).resolve().parents[2]
USAGE = Usage(
    read_seconds=0.2, model_seconds=2.0, write_seconds=0.02, cpu_seconds=2.5, input_bytes=4_000, output_bytes=700
)


@dataclass(frozen=True, kw_only=True)
class Service:
    store: Store


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    store = open_store(tmp_path)
    yield Service(store=store)
    store.close()


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(page.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(page: bytes, name: str, **labels: str) -> float:
    return samples(page)[name, tuple(sorted(labels.items()))]


def facts(name: str, *, draining: bool = False) -> WorkerFacts:
    return WorkerFacts(
        id=name,
        host="h",
        pid=1,
        version="1",
        capacity=Needs(cpus=8, memory_bytes=1000, gpus=1),
        free=Needs(cpus=3, memory_bytes=400, gpus=1),
        draining=draining,
    )


def test_an_empty_store_answers_with_every_state_at_zero(service: Service) -> None:
    page, content_type = render(service, Metrics())
    assert content_type.startswith("text/plain; version=")
    assert {state: value(page, "tidemill_jobs", state=state) for state in JobState} == dict.fromkeys(JobState, 0)
    assert value(page, "tidemill_queue_oldest_seconds") == 0
    assert value(page, "tidemill_workers", state="taking_jobs") == 0
    assert value(page, "tidemill_info", version=tidemill.__version__) == 1
    assert value(page, "tidemill_rows_total", outcome="rejected") == 0
    assert value(page, "tidemill_jobs_ended_total", state="failed") == 0


def test_the_store_says_what_is_queued_and_who_works(service: Service) -> None:
    for number in range(3):
        service.store.jobs.submit(new_job(f"job_{number:06d}"))
    service.store.jobs.submit_claimed(new_job("job_claimed"), "w")
    for name in ("w", "v"):
        service.store.workers.register(name)
        service.store.workers.announce(facts(name, draining=name == "v"))
    page, _ = render(service)
    assert value(page, "tidemill_jobs", state="queued") == 3
    assert value(page, "tidemill_jobs", state="planning") == 1
    assert value(page, "tidemill_queue_oldest_seconds") >= 0
    assert value(page, "tidemill_workers", state="taking_jobs") == 1
    assert value(page, "tidemill_workers", state="draining") == 1
    assert value(page, "tidemill_capacity_cpus") == 16
    assert value(page, "tidemill_free_cpus") == 6
    assert value(page, "tidemill_capacity_memory_bytes") == 2000
    assert value(page, "tidemill_free_gpus") == 2


def test_deliveries_are_counted_where_they_stand(service: Service) -> None:
    assert service.store.webhooks.add(new_webhook("whk_1"), most=1)
    for _ in range(3):
        service.store.outbox.ping("whk_1")
    first, second = service.store.outbox.claim_due(KEY_ID, limit=2, each=2, lease_seconds=60)
    service.store.outbox.delivered_if_current(first, 200)
    service.store.outbox.failed_if_current(second, "down", status=None, retry_seconds=None)
    page, _ = render(service)
    counts = {state: value(page, "tidemill_webhook_deliveries", state=state) for state in STATES}
    assert counts == {"waiting": 1, "delivered": 1, "given_up": 1}


def test_work_is_counted(service: Service) -> None:
    metrics = Metrics()
    job, _ = service.store.jobs.submit(new_job("job_a"))
    metrics.job_started(job, 0)
    metrics.chunk_committed(job, new_receipt(0, rows=100, rejected=3, usage=USAGE))
    metrics.chunk_committed(job, new_receipt(1, rows=50, usage=USAGE))
    metrics.scorer_lost(job, "signal 9", "")
    metrics.job_ended(service.store.jobs.get("job_a"))
    page, _ = render(service, metrics)
    assert value(page, "tidemill_jobs_started_total") == 1
    assert value(page, "tidemill_chunks_committed_total") == 2
    assert value(page, "tidemill_rows_total", outcome="predicted") == 147
    assert value(page, "tidemill_rows_total", outcome="rejected") == 3
    assert value(page, "tidemill_data_bytes_total", direction="read") == 8_000
    assert value(page, "tidemill_data_bytes_total", direction="written") == 1_400
    assert value(page, "tidemill_scoring_cpu_seconds_total") == 5.0
    assert value(page, "tidemill_chunk_seconds_sum", stage="model") == 4.0
    assert value(page, "tidemill_chunk_seconds_bucket", stage="write", le="0.03") == 2
    assert value(page, "tidemill_chunk_seconds_bucket", stage="model", le="1.0") == 0
    assert value(page, "tidemill_scorers_lost_total") == 1
    assert value(page, "tidemill_jobs_ended_total", state="queued") == 1


def test_work_of_other_processes_is_in_the_stores_figures(service: Service) -> None:
    """Also where this process runs no jobs and so counts nothing itself."""
    _, lease = service.store.jobs.submit_claimed(new_job("job_a"), "w")
    assert service.store.ledger.record_plan_if_current(lease, new_plan(2))
    receipts = [new_receipt(0, rejected=3, usage=USAGE), new_receipt(1, usage=USAGE)]
    assert service.store.ledger.commit_chunks_if_current(lease, receipts)
    for page, _ in (render(service), render(service, Metrics())):
        assert value(page, "tidemill_jobs_chunks") == 2
        assert value(page, "tidemill_jobs_rows", outcome="predicted") == 17
        assert value(page, "tidemill_jobs_rows", outcome="rejected") == 3
        assert value(page, "tidemill_jobs_bytes", direction="read") == 8_000
        assert value(page, "tidemill_jobs_bytes", direction="written") == 1_400
        assert value(page, "tidemill_jobs_busy_seconds", stage="model") == 4.0
        assert value(page, "tidemill_jobs_cpu_seconds") == 5.0


def test_two_services_in_one_process_count_apart(service: Service) -> None:
    busy, idle = Metrics(), Metrics()
    job, _ = service.store.jobs.submit(new_job("job_a"))
    busy.chunk_committed(job, new_receipt(0))
    assert value(render(service, busy)[0], "tidemill_chunks_committed_total") == 1
    assert value(render(service, idle)[0], "tidemill_chunks_committed_total") == 0


def test_every_metric_stands_in_the_reference_with_its_kind_and_labels(service: Service) -> None:
    page, _ = render(service, Metrics())
    told = {}
    for family in text_string_to_metric_families(page.decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        told[family.name] = (family.type, ", ".join(sorted(labels)))
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", reference, re.MULTILINE)
    written = {re.sub("_total$", "", name): (kind, labels.replace("`", "").strip()) for name, kind, labels in rows}
    assert written == {
        name: ("gauge" if name == "tidemill_info" else kind, labels) for name, (kind, labels) in told.items()
    }
