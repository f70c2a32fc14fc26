"""Figures for Prometheus: what the store says now, and what this process has done since it started.

Labels have few values that are known beforehand: no ids, no names of jobs, models or keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from tidemill.domain.admission import Needs
from tidemill.domain.cost import UsageSum
from tidemill.domain.job import LEASED, Job, JobState
from tidemill.domain.receipt import Receipt
from tidemill.domain.version import __version__
from tidemill.domain.webhook import DeliveryState
from tidemill.ports.observer import Observer
from tidemill.ports.store import Store

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
STAGES = ("read", "model", "write")
OUTCOMES = ("predicted", "rejected")
DIRECTIONS = ("read", "written")
ATTEMPTS = ("delivered", "failed", "given_up")
"""What becomes of an attempt to deliver: failed ones are made again, given up ones are not."""
LEFT = tuple(state for state in JobState if state not in LEASED)


class HasStore(Protocol):
    """What `render` needs of a `service.context.Context`."""

    @property
    def store(self) -> Store: ...


class Metrics(Observer):
    """Counters of the work that one process did, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._started = Counter(
            "tidemill_jobs_started", "Jobs that this process took, again after a takeover.", registry=self.registry
        )
        self._ended = Counter(
            "tidemill_jobs_ended", "Jobs that left this process, by the state then.", ["state"], registry=self.registry
        )
        self._chunks = Counter("tidemill_chunks_committed", "Chunks made durable.", registry=self.registry)
        self._rows = Counter(
            "tidemill_rows", "Rows of committed chunks: predicted or rejected.", ["outcome"], registry=self.registry
        )
        self._bytes = Counter(
            "tidemill_data_bytes", "Bytes of committed chunks: input read, parts written.", ["direction"],
            registry=self.registry,
        )  # fmt: skip
        self._cpu = Counter("tidemill_scoring_cpu_seconds", "CPU time of committed chunks.", registry=self.registry)
        self._seconds = Histogram(
            "tidemill_chunk_seconds", "Busy seconds of a committed chunk in each stage.", ["stage"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._lost = Counter(
            "tidemill_scorers_lost", "Scorers that died or were killed for hanging.", registry=self.registry
        )
        self._attempts = Counter(
            "tidemill_webhook_attempts", "Attempts of this process to deliver to webhooks, by what became of them.",
            ["outcome"], registry=self.registry,
        )  # fmt: skip
        self._name_every_label()

    def _name_every_label(self) -> None:
        """A series that appears with its first event hides that event from `increase()`."""
        for state in LEFT:
            self._ended.labels(state.value)
        for outcome in OUTCOMES:
            self._rows.labels(outcome)
        for direction in DIRECTIONS:
            self._bytes.labels(direction)
        for stage in STAGES:
            self._seconds.labels(stage)
        for outcome in ATTEMPTS:
            self._attempts.labels(outcome)

    def job_started(self, job: Job, resumed_chunks: int) -> None:
        self._started.inc()

    def chunk_committed(self, job: Job, receipt: Receipt) -> None:
        usage = receipt.usage
        self._chunks.inc()
        self._rows.labels("predicted").inc(receipt.predicted)
        self._rows.labels("rejected").inc(receipt.rejected)
        self._bytes.labels("read").inc(usage.input_bytes)
        self._bytes.labels("written").inc(usage.output_bytes)
        self._cpu.inc(usage.cpu_seconds)
        self._seconds.labels("read").observe(usage.read_seconds)
        self._seconds.labels("model").observe(usage.model_seconds)
        self._seconds.labels("write").observe(usage.write_seconds)

    def scorer_lost(self, job: Job, cause: str, log: str) -> None:
        self._lost.inc()

    def job_ended(self, job: Job) -> None:
        self._ended.labels(job.state.value).inc()

    def attempted(self, outcome: str) -> None:
        """An attempt to deliver to a webhook came to this, one of `ATTEMPTS`."""
        self._attempts.labels(outcome).inc()


def render(context: HasStore, metrics: Metrics | None = None) -> tuple[bytes, str]:
    """(the page in the Prometheus text format, its content type). Asks the store a few short questions.

    Without `metrics` only what the store knows; it is of all tenants. Raises StoreUnavailable.
    """
    collectors: list[Collector] = [_StoreFigures(context.store)]
    if metrics is not None:
        collectors.append(metrics.registry)
    return generate_latest(_Together(collectors)), CONTENT_TYPE_LATEST


class _Together(Collector):
    def __init__(self, collectors: list[Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            for metric in collector.collect():
                # When a counter was made tells nothing that the process's own start does not.
                metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
                yield metric


class _StoreFigures(Collector):
    """What the store says at this moment."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("tidemill", "The version of the service.", value={"version": __version__})
        yield self._jobs()
        yield from _totals(self._store.history.totals())
        yield _gauge(
            "tidemill_queue_oldest_seconds", "How long the oldest queued job waits; 0 if none does.",
            self._store.history.oldest_queued_seconds(),
        )  # fmt: skip
        yield self._deliveries()
        yield from self._workers()

    def _jobs(self) -> Metric:
        jobs = GaugeMetricFamily("tidemill_jobs", "Jobs that the store remembers, by state.", labels=["state"])
        counts = self._store.history.counts_by_state()
        for state in JobState:
            jobs.add_metric([state.value], counts.get(state, 0))
        return jobs

    def _deliveries(self) -> Metric:
        counts = self._store.outbox.counts_by_state()
        return _gauges(
            "tidemill_webhook_deliveries", "Deliveries to webhooks that are remembered, by state.", "state",
            {state.value: counts.get(state, 0) for state in DeliveryState},
        )  # fmt: skip

    def _workers(self) -> Iterator[Metric]:
        live = [worker.facts for worker in self._store.workers.list_live()]
        draining = sum(worker.draining for worker in live)
        workers = GaugeMetricFamily("tidemill_workers", "Workers that live, by what they do.", labels=["state"])
        workers.add_metric(["taking_jobs"], len(live) - draining)
        workers.add_metric(["draining"], draining)
        yield workers
        yield from _resources("capacity", "of live workers", [worker.capacity for worker in live])
        yield from _resources("free", "of live workers that no job has taken", [worker.free for worker in live])


def _totals(sums: UsageSum) -> Iterator[Metric]:
    """No counters: what jobs have done is forgotten with them."""
    used = sums.usage
    yield _gauge("tidemill_jobs_chunks", "Chunks that jobs which are remembered committed.", sums.chunks)
    yield _gauges(
        "tidemill_jobs_rows", "Rows of those chunks.", "outcome",
        {"predicted": sums.predicted, "rejected": sums.rejected},
    )  # fmt: skip
    yield _gauges(
        "tidemill_jobs_bytes", "Bytes of those chunks.", "direction",
        {"read": used.input_bytes, "written": used.output_bytes},
    )  # fmt: skip
    yield _gauges(
        "tidemill_jobs_busy_seconds", "Busy seconds of those chunks in each stage.", "stage",
        {"read": used.read_seconds, "model": used.model_seconds, "write": used.write_seconds},
    )  # fmt: skip
    yield _gauge("tidemill_jobs_cpu_seconds", "CPU time of jobs that are remembered.", used.cpu_seconds)


def _resources(kind: str, whose: str, hosts: list[Needs]) -> Iterator[Metric]:
    yield _gauge(f"tidemill_{kind}_cpus", f"CPUs {whose}.", sum(host.cpus for host in hosts))
    yield _gauge(f"tidemill_{kind}_memory_bytes", f"Memory {whose}.", sum(host.memory_bytes for host in hosts))
    yield _gauge(f"tidemill_{kind}_gpus", f"GPUs {whose}.", sum(host.gpus for host in hosts))


def _gauges(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    gauges = GaugeMetricFamily(name, meaning, labels=[label])
    for each, value in values.items():
        gauges.add_metric([each], value)
    return gauges


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)
