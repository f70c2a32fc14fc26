"""Ledger, leases, checks and progress: the share of the process that does only that, and of checksums."""

from __future__ import annotations

import hashlib
import os
import statistics
import time

from benchmarks.harness.contestants import tidemill_start
from benchmarks.scenarios import jobs
from benchmarks.scenarios.report import Ratio, Report
from benchmarks.workloads.boosted import lightgbm_model
from benchmarks.workloads.rows import input_folder

SMALL_CHUNK_ROWS = 2_000
BLOCK_BYTES = 1 << 20
LIBRARY = ("--accelerate", "off")
"""Shares are of the work with the model's own library: a kernel makes all but the overhead less."""


def run(*, rows: int, rounds: int) -> Report:
    """The worker process never touches data, so its CPU is overhead. Scorers hash all that they write while they
    write it: as many bytes are hashed here, which counts too. Smaller checks in planner and scorers do not.

    Once with the chunks that Tidemill chooses, once with far too small ones for the price of one chunk;
    and the bare start of the command, which a longer job spreads thinner.
    """
    report = Report(
        scenario="overhead",
        question="what share of the CPU goes into ledger, leases, checks and progress?",
        sizes={"rows": rows, "trees": 200, "small_chunk_rows": SMALL_CHUNK_ROWS, "rounds": rounds},
    )
    model, source = lightgbm_model(trees=200, leaves=63), input_folder(rows)
    for _ in range(rounds):
        report.add("own chunks", jobs.score(model, source, *LIBRARY))
        report.add("small chunks", jobs.score(model, source, "--rows-per-chunk", str(SMALL_CHUNK_ROWS), *LIBRARY))
        report.add("start of the command", tidemill_start())
    started = report.median("start of the command", "root_cpu_seconds")
    shares = [one["root_cpu_seconds"] / one["cpu_seconds"] for one in report.runs["own chunks"]]
    running = [(one["root_cpu_seconds"] - started) / one["cpu_seconds"] for one in report.runs["own chunks"]]
    hashing = [hashing_cpu_seconds(one["usage"]["output_bytes"]) for one in report.runs["own chunks"]]
    checked = [
        share + seconds / one["cpu_seconds"]
        for share, seconds, one in zip(shares, hashing, report.runs["own chunks"], strict=True)
    ]
    grown = report.median("small chunks", "root_cpu_seconds") - report.median("own chunks", "root_cpu_seconds")
    all_grown = report.median("small chunks", "cpu_seconds") - report.median("own chunks", "cpu_seconds")
    chunks = rows / SMALL_CHUNK_ROWS
    report.ratios = [
        Ratio(name="CPU of the worker process / CPU of all", value=statistics.median(shares), target=0.03),
        Ratio(name="the same with sha256 of the output", value=statistics.median(checked), target=0.03),
        Ratio(name="the same without the start of the command", value=statistics.median(running)),
        Ratio(name="milliseconds of the worker's CPU per chunk", value=1000 * grown / chunks),
        Ratio(name="milliseconds of all CPU per chunk", value=1000 * all_grown / chunks),
    ]
    return report


def hashing_cpu_seconds(size_bytes: int) -> float:
    """What sha256 over so many bytes costs on this machine."""
    block, digest, started = os.urandom(BLOCK_BYTES), hashlib.sha256(), time.process_time()
    for _ in range(-(-size_bytes // BLOCK_BYTES)):
        digest.update(block)
    return time.process_time() - started
