"""build/crash.json: one record of each kill, and what the whole suite must have hit."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.crash.rig.job import ROOT

BUILD = Path(os.environ.get("TIDEMILL_CRASH_BUILD", ROOT / "build"))
SCRAPS = BUILD / "crash.d"
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()}"
"""Names the run of pytest: its processes keep their records together."""
SUITES = ("instants", "calls", "publish", "freeze", "fault", "power", "determinism")
"""Those that every run of all tests must have written of."""
FEWEST = 20
"""So often each of them."""
LEAST_HIT = 0.8
ENOUGH = 10
"""So many kills of one suite can be judged; fewer were picked by hand."""
FULL_SUITE = 40
"""So many kills at instants must have met every phase."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill and what came of it. None is what was not measured."""

    suite: str
    """One of `SUITES`, or "outputs"."""
    case: str
    """The test's own name for what it tried."""
    seed: int
    point: str
    """What was waited for, or the system call and its number."""
    target: str
    state: str
    """Of the job at the kill; after a fault, what it brought the job to."""
    hit: bool | None
    """Whether the job was not finished and the target lived; of a fault, whether the call failed.
    None where the kill was meant for a job that was over."""
    recovery: bool = False
    """Whether it hit a run that resumed."""
    chunks_total: int | None = None
    chunks_done: int | None = None
    scored_again: int | None = None
    """Chunks that were committed before the kill and went through the model again."""
    scored_after: int | None = None
    """Chunks that went through the model after the kill."""
    runs: int = 1
    """How often the command had to be run in all."""


def write(kill: Kill) -> None:
    """Keep one record until the suite ends."""
    folder = SCRAPS / RUN
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{uuid.uuid4().hex}.json").write_text(json.dumps(asdict(kill)))


def collect() -> list[Kill]:
    """The records of the newest run, written to crash.json; those of older runs are removed."""
    runs = sorted(SCRAPS.iterdir(), key=lambda run: run.stat().st_mtime_ns) if SCRAPS.is_dir() else []
    if not runs:
        return []
    for older in runs[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    kills = [Kill(**json.loads(scrap.read_text())) for scrap in runs[-1].iterdir()]
    kills.sort(key=lambda kill: (kill.suite, kill.case, kill.seed, kill.recovery, kill.point))
    (BUILD / "crash.json").write_text("[\n" + ",\n".join(json.dumps(asdict(kill)) for kill in kills) + "\n]\n")
    return kills


def report() -> list[str]:
    """Collect, print what was hit, and give what is wrong with it."""
    kills = collect()
    wrong = faults(kills)
    if kills:
        print(f"\ncrash suite: {describe(kills)}")
    for fault in wrong[:20]:
        print(f"crash suite: {fault}")
    return wrong


def scarce() -> list[str]:
    """Suites of which crash.json holds too little, as "suite: count"."""
    path = BUILD / "crash.json"
    kills = json.loads(path.read_text()) if path.exists() else []
    counts = Counter(kill["suite"] for kill in kills)
    return [f"{suite}: {counts[suite]}" for suite in SUITES if counts[suite] < FEWEST]


def describe(kills: Sequence[Kill]) -> str:
    """One line for people."""
    states = Counter("recovery" if kill.recovery else kill.state for kill in kills if kill.hit)
    hit = sum(bool(kill.hit) for kill in kills)
    return f"{len(kills)} kills, {hit} hit a running job: " + ", ".join(
        f"{n} {state}" for state, n in sorted(states.items())
    )


def faults(kills: Sequence[Kill]) -> list[str]:
    """Why these records prove too little; empty if they do or if the suites were run in part."""
    return [*_missed(kills), *_phases_missed(kills), *_rescored(kills)]


def _missed(kills: Sequence[Kill]) -> Iterator[str]:
    """Suites of which too few kills hit a running job. A call that was to fail must fail, each one."""
    for suite in sorted({kill.suite for kill in kills}):
        aimed = [kill for kill in kills if kill.suite == suite and kill.hit is not None]
        hit = sum(bool(kill.hit) for kill in aimed)
        if suite == "fault" and hit < len(aimed):
            yield f"only {hit} of {len(aimed)} faults were injected"
        elif len(aimed) >= ENOUGH and hit < LEAST_HIT * len(aimed):
            yield f"{suite}: only {hit} of {len(aimed)} kills hit a running job"


def _phases_missed(kills: Sequence[Kill]) -> Iterator[str]:
    """What no kill at an instant hit."""
    instants = [kill for kill in kills if kill.suite == "instants"]
    if len(instants) < FULL_SUITE:
        return
    hit = [kill for kill in instants if kill.hit]
    for state in ("planning", "running", "committing"):
        if not any(kill.state == state for kill in hit):
            yield f"no kill hit a job that was {state}"
    if not any(kill.recovery for kill in hit):
        yield "no kill hit a recovery"


def _rescored(kills: Sequence[Kill]) -> Iterator[str]:
    """Kills after which more was scored than was not committed, where that was measured."""
    for kill in kills:
        done, total = kill.chunks_done or 0, kill.chunks_total or 0
        if 0 < done < total and kill.scored_after is not None and kill.scored_after >= total:
            yield f"everything was scored again after {kill}"
        if kill.scored_again:
            yield f"{kill.scored_again} committed chunks were scored again after {kill}"
