"""The file of a day on one machine: parts are added as they are measured, so that a table can be made in pieces."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness.contest import Part
from benchmarks.harness.machine import facts
from benchmarks.harness.places import RESULTS


@dataclass(kw_only=True)
class Record:
    """`parts` in the order in which they were measured."""

    machine: dict[str, Any]
    parts: list[Part] = field(default_factory=list)

    def add(self, part: Part) -> None:
        """It takes the place of older parts of the same workload all of whose contestants it has."""
        has = {*part.runs, *part.failed}
        self.parts = [old for old in self.parts if old.workload != part.workload or not {*old.runs, *old.failed} <= has]
        self.parts.append(part)

    def workloads(self) -> list[str]:
        return sorted({part.workload for part in self.parts})

    def of(self, workload: str) -> list[Part]:
        """Newest first."""
        return [part for part in reversed(self.parts) if part.workload == workload]


def path_of(name: str | None, *, quick: bool) -> Path:
    """The file for a name; by default that of today."""
    name = name or f"{datetime.now(UTC):%Y-%m-%d}-peers{'-quick' if quick else ''}"
    return RESULTS / f"{name}.json"


def newest() -> Path | None:
    """The newest record of full runs."""
    return max(RESULTS.glob("*-peers.json"), default=None)


def read(path: Path) -> Record:
    told = json.loads(path.read_text(encoding="utf-8"))
    return Record(machine=told["machine"], parts=[Part(**part) for part in told["parts"]])


def opened(path: Path) -> Record:
    """The record to add to. Exits if the file is of another machine or of other versions."""
    here = facts()
    if not path.exists():
        return Record(machine=here)
    record = read(path)
    other = sorted(key for key in here if here[key] != record.machine.get(key))
    if other:
        raise SystemExit(
            f"{path.name} was measured where {', '.join(other)} differ(s): its ratios cannot stand beside these. "
            "Give another name with --into."
        )
    return record


def write(record: Record, path: Path) -> None:
    RESULTS.mkdir(exist_ok=True)
    told = {"machine": record.machine, "parts": [part.record() for part in record.parts]}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
