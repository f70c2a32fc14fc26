"""The service: how soon is a small job's result there, and does a long queue slow it down?

Each scenario starts a real `tidemill serve` on a free loopback port with a home of its own, and talks
HTTP to it over kept connections, as a program would.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pyarrow.parquet as pq

from benchmarks.harness.places import FOLDER, ROOT
from benchmarks.scenarios.report import Ratio, Report
from benchmarks.workloads.boosted import lightgbm_model
from benchmarks.workloads.rows import input_folder

HOME = FOLDER / "service"
WAIT_SECONDS = 60
TREES, LEAVES = 200, 63

WARM_TARGET_SECONDS = 0.150
FRAMEWORK_TARGET_SECONDS = 1.0
SUBMITS_TARGET_PER_SECOND = 100
PAGE_TARGET_SECONDS = 0.050
SENDERS = 4

Figures = dict[str, float]


class ServiceReport(Report):
    """A report whose runs have figures of their own instead of wall, CPU and memory of a command."""

    def print(self, *, quick: bool) -> None:
        print(f"\n{self.scenario}: {self.question}")
        print("  " + ", ".join(f"{key} {value:,}" for key, value in self.sizes.items()) + "\n")
        for contestant, runs in self.runs.items():
            for name, value in self._medians(runs).items():
                print(f"  {contestant:<24}{name:<32}{value:14,.4g}")
        print()
        for ratio in self.ratios:
            print(ratio.line(judged=not quick))


def warm(*, rows: int, rounds: int) -> Report:
    """From sending the job to holding its result, with the model in a scorer's memory and with only its library."""
    report = ServiceReport(
        scenario="warm",
        question="how soon is the result of a small job there?",
        sizes={"rows": rows, "trees": TREES, "jobs": rounds},
    )
    models = [_variant(number) for number in range(rounds + 1)]
    source = _input(rows)
    with _serving() as (client, process):
        for number, model in enumerate(models):
            _register(client, f"model{number}", model)
        # Its first job starts what all of them share: the zygote that has the framework imported.
        _score(client, process, "model0@1", source, rows)
        for number in range(1, rounds + 1):
            report.add("framework warm", _score(client, process, f"model{number}@1", source, rows))
        for _ in range(rounds):
            report.add("model warm", _score(client, process, f"model{rounds}@1", source, rows))
    report.ratios = [
        Ratio(
            name=f"{contestant}: seconds from submit to {step}, {name}",
            value=_quantile([run[f"{key}_seconds"] for run in report.runs[contestant]], share),
            target=target if key == "succeeded" and share == 0.5 else None,
        )
        for contestant, target in (
            ("model warm", WARM_TARGET_SECONDS),
            ("framework warm", FRAMEWORK_TARGET_SECONDS),
        )
        for step, key in (("result", "succeeded"), ("downloaded result", "downloaded"))
        for name, share in (("p50", 0.5), ("p95", 0.95))
    ]
    return report


def queue(*, jobs: int, pages: int) -> Report:
    """Many jobs wait and no worker takes them: submitting, listing, and what the service grows by."""
    report = ServiceReport(
        scenario="queue",
        question="does a long queue slow the service down?",
        sizes={"jobs": jobs, "pages": pages, "senders": SENDERS},
    )
    with _serving("--no-jobs") as (client, process):
        report.add("sqlite", _queued(client, process, jobs, pages))
    with _postgres() as url, _serving("--no-jobs", store=url) as (client, process):
        report.add("postgres", _queued(client, process, jobs, pages))
    for store, (run,) in report.runs.items():
        report.ratios += [
            Ratio(
                name=f"{store}: wanted submits per second / reached",
                value=SUBMITS_TARGET_PER_SECOND / run["submits_per_second"],
                target=1,
            ),
            Ratio(
                name=f"{store}: seconds of a list page, p99", value=run["list_p99_seconds"], target=PAGE_TARGET_SECONDS
            ),
            Ratio(name=f"{store}: seconds of a web page, p99", value=run["page_p99_seconds"]),
            Ratio(name=f"{store}: memory of the service after / before", value=run["rss_after"] / run["rss_before"]),
        ]
    return report


def _score(client: httpx2.Client, process: psutil.Process, model: str, source: Path, rows: int) -> Figures:
    """Submit one job, wait for it, download its result, look at it. CPU is of the service and its children."""
    busy_before, started = _busy_tree(process), time.perf_counter()
    job = _good(client.post("/api/v1/jobs", json={"model": model, "input": {"path": [str(source)]}, "keep": ["id"]}))
    accepted = time.perf_counter()
    while job["state"] in ("queued", "planning", "running", "committing"):
        job = _good(client.get(f"/api/v1/jobs/{job['id']}", params={"wait": WAIT_SECONDS}))
    succeeded = time.perf_counter()
    if job["state"] != "succeeded" or job["counts"]["predicted"] != rows:
        raise SystemExit(f"{job['id']} is {job['state']}: {job['error']}")
    answer = client.get(job["links"]["download"])
    downloaded = time.perf_counter()
    target = HOME / "download.parquet"
    target.write_bytes(answer.content)
    if pq.read_metadata(target).num_rows != rows:
        raise SystemExit(f"The result of {job['id']} has not {rows} rows.")
    return {
        "accepted_seconds": accepted - started,
        "succeeded_seconds": succeeded - started,
        "downloaded_seconds": downloaded - started,
        "cpu_seconds": _busy_tree(process) - busy_before,
    }


def _queued(client: httpx2.Client, process: psutil.Process, jobs: int, pages: int) -> Figures:
    _register(client, "churn", _variant(0))
    source = _input(1_000)
    spec = {"model": "churn@1", "input": {"path": [str(source)]}}

    def submit(_: int) -> str:
        return str(_good(client.post("/api/v1/jobs", json=spec))["id"])

    def list_page(number: int) -> httpx2.Response:
        return client.get("/api/v1/jobs", params={"before": ids[-1 - number * 997 % len(ids)], "limit": 50})

    def web_page(number: int) -> httpx2.Response:
        return client.get("/live", params={"before": ids[-1 - number * 997 % len(ids)]})

    with ThreadPoolExecutor(SENDERS) as senders:
        list(senders.map(submit, range(100)))
        rss_before = process.memory_info().rss
        busy_before, started = _busy(process), time.perf_counter()
        ids = sorted(senders.map(submit, range(jobs)))
        submitting_seconds = time.perf_counter() - started
        busy_seconds = _busy(process) - busy_before
    if len(set(ids)) != jobs:
        raise SystemExit("Two submissions gave the same job.")
    busy_before = _busy(process)
    lists = _timed(list_page, pages)
    busy_listing_seconds = _busy(process) - busy_before
    live = _timed(web_page, pages)
    return {
        "submits_per_second": jobs / submitting_seconds,
        "cpu_seconds_per_submit": busy_seconds / jobs,
        "cpu_seconds_per_list_page": busy_listing_seconds / pages,
        "list_p50_seconds": _quantile(lists, 0.5),
        "list_p99_seconds": _quantile(lists, 0.99),
        "page_p50_seconds": _quantile(live, 0.5),
        "page_p99_seconds": _quantile(live, 0.99),
        "rss_before": rss_before,
        "rss_after": process.memory_info().rss,
    }


def _busy(process: psutil.Process) -> float:
    """CPU seconds of the service so far: unlike the clock's, they hardly depend on what else runs here."""
    used = process.cpu_times()
    return used.user + used.system


def _busy_tree(process: psutil.Process) -> float:
    """The same with all descendants; those that ended are counted by whoever waited for them."""
    seconds = 0.0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = each.cpu_times()
            seconds += used.user + used.system + used.children_user + used.children_system
    return seconds


def _timed(fetch: Callable[[int], httpx2.Response], times: int) -> list[float]:
    seconds = []
    for number in range(times):
        started = time.perf_counter()
        fetch(number).raise_for_status()
        seconds.append(time.perf_counter() - started)
    return seconds


def _quantile(values: Sequence[float], share: float) -> float:
    return statistics.median(values) if share == 0.5 else sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _good(answer: httpx2.Response) -> dict[str, Any]:
    if answer.is_error:
        raise SystemExit(f"{answer.request.url}: {answer.status_code} {answer.text[:500]}")
    told: dict[str, Any] = answer.json()
    return told


def _register(client: httpx2.Client, name: str, model: Path) -> None:
    _good(client.post(f"/api/v1/models/{name}/versions", json={"source": str(model)}))


def _input(rows: int) -> Path:
    (file,) = input_folder(rows).glob("*.parquet")
    return file


def _variant(number: int) -> Path:
    """A model as big as the others with a digest of its own: one digit of its first leaf differs."""
    original = lightgbm_model(trees=TREES, leaves=LEAVES)
    path = FOLDER / "variants" / f"{original.parent.name}-{number}.txt"
    if not path.exists():
        text = original.read_text()
        start = text.index("leaf_value=") + len("leaf_value=")
        end = text.index(" ", start)
        digits = f"{number % 1000:03}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text[: end - len(digits)] + digits + text[end:])
    return path


@contextmanager
def _serving(*flags: str, store: str | None = None) -> Iterator[tuple[httpx2.Client, psutil.Process]]:
    """A client of a service that has just started, and its process."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    environment = {**kept, "TIDEMILL_HOME": str(HOME), "PYTHONPATH": str(ROOT / "src")}
    if store is not None:
        environment["TIDEMILL_STORE"] = store
    command = [sys.executable, "-m", "tidemill", "serve", "--port", "0", *flags]
    with (HOME / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if "http://" not in said:
            raise SystemExit(f"The service did not start: {(HOME / 'log').read_text()}")
        url = said[said.index("http://") :].split()[0]
        with httpx2.Client(base_url=url, timeout=WAIT_SECONDS + 30) as client:
            yield client, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        shutil.rmtree(HOME, ignore_errors=True)


@contextmanager
def _postgres() -> Iterator[str]:
    """The tests' server, but as durable as one in use."""
    sys.path.insert(0, str(ROOT))
    from tests import postgres

    postgres.SETTINGS.update(fsync="on", full_page_writes="on", autovacuum="on")
    server = postgres.Server()
    try:
        server.create()
        yield server.url()
    finally:
        server.remove()
