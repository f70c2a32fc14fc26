"""One workload: contestants take turns on the same files, each run in a fresh process, each result looked at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from benchmarks.harness.checking import difference, predictions
from benchmarks.harness.contestants import CONTESTANTS, Contestant, Failed, Run
from benchmarks.harness.environments import Unavailable
from benchmarks.harness.places import empty_output
from benchmarks.workloads.workload import Prepared, Workload

REFERENCE = "floor"
"""Its predictions are the library's own, which all must give; it takes the first turn."""


@dataclass(kw_only=True)
class Part:
    """What came of it: runs by contestant, in the order of rounds, and why others have none."""

    workload: str
    title: str
    family: str
    small_job: bool
    kernel_target: float | None
    rows: int
    rounds: int
    quick: bool
    at: str
    seconds: float = 0.0
    runs: dict[str, list[Run]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return asdict(self)


def hold(workload: Workload, names: Sequence[str], *, rows: int, rounds: int, quick: bool, make: bool) -> Part:
    """Run the contestants of these names and print what each cost. `make` environments that are not there yet."""
    started = time.monotonic()
    part = Part(
        workload=workload.name,
        title=workload.title,
        family=workload.family,
        small_job=workload.small_job,
        kernel_target=workload.kernel_target,
        rows=rows,
        rounds=rounds,
        quick=quick,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    print(f"\n{workload.name}: {workload.title}; {rows:,} rows, {rounds} round(s)", flush=True)
    prepared = workload.make(rows)
    fit = [each for each in map(CONTESTANTS.__getitem__, names) if _can_run(each, part, make=make)]
    expected = None
    for turn in range(rounds):
        # The reference comes first in the first round; who is next to whom changes from round to round.
        for contestant in [*fit[turn % len(fit) :], *fit[: turn % len(fit)]]:
            if contestant.name in part.failed:
                continue
            output = empty_output()
            try:
                run = contestant.score(prepared, output, part.runs)
                found = predictions(output)
                if expected is None:
                    expected = found
                apart = difference(found, expected)
                if apart > workload.tolerance:
                    raise Failed(f"gave other predictions: they differ by {apart:.3g} of the spread")
            except (Failed, ValueError) as exc:
                part.failed[contestant.name] = str(exc)
                part.runs.pop(contestant.name, None)
                print(f"  {contestant.name:<20} failed: {exc}", flush=True)
                continue
            run = {**run, "rows": len(found[0]), "difference": apart}
            part.runs.setdefault(contestant.name, []).append(run)
            _print(contestant, run)
    empty_output()
    part.seconds = time.monotonic() - started
    _refuse_if_wrong(part, prepared)
    return part


def _can_run(contestant: Contestant, part: Part, *, make: bool) -> bool:
    try:
        contestant.ensure(make=make)
    except Unavailable as exc:
        part.failed[contestant.name] = f"not available: {exc}"
        print(f"  {contestant.name:<20} not available: {exc}", flush=True)
        return False
    return True


def _print(contestant: Contestant, run: Run) -> None:
    print(
        f"  {contestant.name:<20}{run['wall_seconds']:9.2f} s wall{run['cpu_seconds']:9.2f} s CPU"
        f"{run['peak_pss_bytes'] / 1e6:8.0f} MB   others {run['others_share']:4.0%}",
        flush=True,
    )


def _refuse_if_wrong(part: Part, prepared: Prepared) -> None:
    """Peers that fail stand in the table with the reason; if we fail, there is nothing to compare."""
    own = {name: reason for name, reason in part.failed.items() if name.startswith(("tidemill", REFERENCE))}
    if own:
        raise SystemExit(f"{part.workload} ({prepared.source}): {own}")
