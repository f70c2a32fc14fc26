"""What is scored: one module for each kind, and the table of them all."""

from __future__ import annotations

from benchmarks.workloads import boosted, extremes, network, pipelines, texts
from benchmarks.workloads.workload import Workload

_ALL = (boosted, pipelines, network, texts, extremes)
WORKLOADS: dict[str, Workload] = {
    each.name: each for each in sorted((each for module in _ALL for each in module.WORKLOADS), key=lambda one: one.name)
}
