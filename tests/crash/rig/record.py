"""build/crash.json: one record of each kill, and what the whole suite must have hit."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.crash.rig.job import ROOT

BUILD = Path(os.environ.get("TIDEMILL_CRASH_BUILD", ROOT / "build"))
SCRAPS = BUILD / "crash.d"
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()}"
"""Names the run of pytest: its processes keep their records together."""
LEAST_HIT = 0.8
FULL_SUITE = 40
"""So many kills at instants make a suite that can be judged; fewer were picked by hand."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill and what came of it."""

    suite: str
    """"instants", "calls", "publish", "freeze", "outputs", "determinism", "fault", "power"."""
    case: str
    """The test's own name for what it tried."""
    seed: int
    point: str
    """What was waited for, or the system call and its number."""
    target: str
    state: str
    """Of the job at the kill."""
    hit: bool
    """Whether the job was not finished and the target lived."""
    recovery: bool = False
    """Whether it hit a run that resumed."""
    chunks_total: int = 0
    chunks_done: int = 0
    scored_again: int = 0
    """Chunks that were committed before the kill and went through the model again."""
    scored_after: int = 0
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


def instants() -> int:
    """How many kills at instants crash.json holds."""
    path = BUILD / "crash.json"
    return sum(kill["suite"] == "instants" for kill in json.loads(path.read_text())) if path.exists() else 0


def describe(kills: Sequence[Kill]) -> str:
    """One line for people."""
    states = Counter("recovery" if kill.recovery else kill.state for kill in kills if kill.hit)
    hit = sum(kill.hit for kill in kills)
    return f"{len(kills)} kills, {hit} hit a running job: " + ", ".join(
        f"{n} {state}" for state, n in sorted(states.items())
    )


def faults(kills: Sequence[Kill]) -> list[str]:
    """Why these records prove too little; empty if they do or if the suite was run in part."""
    instants = [kill for kill in kills if kill.suite == "instants"]
    if len(instants) < FULL_SUITE:
        return []
    found = []
    hit = [kill for kill in instants if kill.hit]
    if len(hit) < LEAST_HIT * len(instants):
        found.append(f"only {len(hit)} of {len(instants)} kills hit a running job")
    for state in ("planning", "running", "committing"):
        if not any(kill.state == state for kill in hit):
            found.append(f"no kill hit a job that was {state}")
    if not any(kill.recovery for kill in hit):
        found.append("no kill hit a recovery")
    for kill in kills:
        unfinished = kill.chunks_done < kill.chunks_total
        if kill.chunks_done and unfinished and kill.scored_after >= kill.chunks_total:
            found.append(f"everything was scored again after {kill}")
        if kill.scored_again:
            found.append(f"{kill.scored_again} committed chunks were scored again after {kill}")
    return found
