"""Results for people (a table) and for the record (JSON with the facts of the machine)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import facts
from benchmarks.harness.places import RESULTS


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One number that the product promises: `value` should be at most `target`."""

    name: str
    value: float
    target: float | None = None

    def line(self, *, judged: bool) -> str:
        if self.target is None or not judged:
            return f"  {self.name:<64} {self.value:7.3f}"
        verdict = "ok" if self.value <= self.target else "OVER"
        return f"  {self.name:<64} {self.value:7.3f}   at most {self.target:.3g}: {verdict}"


@dataclass(kw_only=True)
class Report:
    """One scenario: raw runs by contestant, and what is made of their medians."""

    scenario: str
    question: str
    sizes: dict[str, Any]
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)

    def add(self, contestant: str, run: Mapping[str, Any]) -> None:
        self.runs.setdefault(contestant, []).append(dict(run))

    def median(self, contestant: str, key: str) -> float:
        return statistics.median(float(run[key]) for run in self.runs[contestant])

    def median_of_ratios(self, top: str, bottom: str, key: str) -> float:
        """Runs of one round belong together: what the machine did to one it did to its neighbour."""
        pairs = zip(self.runs[top], self.runs[bottom], strict=True)
        return statistics.median(float(a[key]) / float(b[key]) for a, b in pairs)

    def print(self, *, quick: bool) -> None:
        """The table, and ratios against their targets; a quick run is too small to be judged."""
        print(f"\n{self.scenario}: {self.question}")
        print("  " + ", ".join(f"{key} {value:,}" for key, value in self.sizes.items()) + "\n")
        print(f"  {'median of ' + str(len(next(iter(self.runs.values())))):<22}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}")
        for contestant in self.runs:
            peak = self.median(contestant, "peak_pss_bytes") / 1e6
            wall, cpu = self.median(contestant, "wall_seconds"), self.median(contestant, "cpu_seconds")
            print(f"  {contestant:<22}{wall:9.2f}{cpu:9.2f}{peak:9.0f}")
        print()
        for ratio in self.ratios:
            print(ratio.line(judged=not quick))

    def write(self, *, quick: bool) -> Path:
        now = datetime.now(UTC)
        path = RESULTS / f"{now:%Y-%m-%d}-{self.scenario}{'-quick' if quick else ''}.json"
        medians = {name: self._medians(runs) for name, runs in self.runs.items()}
        record = {
            "scenario": self.scenario,
            "question": self.question,
            "at": now.isoformat(timespec="seconds"),
            "quick": quick,
            "sizes": self.sizes,
            "machine": facts(),
            "ratios": [asdict(ratio) for ratio in self.ratios],
            "medians": medians,
            "runs": self.runs,
        }
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        return path

    @staticmethod
    def _medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        numbers = [key for key, value in runs[0].items() if isinstance(value, int | float)]
        return {key: statistics.median(float(run[key]) for run in runs) for key in numbers}
