"""Run benchmarks.

    python -m benchmarks                               everything: workloads with all contestants, then the scenarios
    python -m benchmarks --quick                       small sizes, one round, the environments that are there already
    python -m benchmarks --only W1 --contestants ray   a part; it is added to the record of the day
    python -m benchmarks --only memory,queue           scenarios: what only Tidemill is asked
    python -m benchmarks --make                        make the peers' environments and nothing else
    python -m benchmarks --docs                        write the figures of the newest record into the pages

Contestants take turns and ratios are compared: absolute times mean little on a shared machine.
Nothing here fails because it is slow; it fails if a result of Tidemill is wrong.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.harness import contest, pages, record, table, targets
from benchmarks.harness.contestants import CONTESTANTS, OWN
from benchmarks.harness.environments import Unavailable, python_of
from benchmarks.scenarios import memory, overhead, resume, service
from benchmarks.scenarios.report import Report
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.workload import Workload

Sizes = argparse.Namespace
SCENARIOS: dict[str, Callable[[Sizes], Report]] = {
    "memory": lambda a: memory.run(
        rows=a.rows or (500_000 if a.quick else 2_000_000), times=25, rounds=a.rounds or (1 if a.quick else 2)
    ),
    "overhead": lambda a: overhead.run(
        rows=a.rows or (250_000 if a.quick else 2_000_000), rounds=a.rounds or (1 if a.quick else 3)
    ),
    "resume": lambda a: resume.run(rounds=a.rounds or (1 if a.quick else 3)),
    "warm": lambda a: service.warm(rows=a.rows or 1_000, rounds=a.rounds or (5 if a.quick else 40)),
    "queue": lambda a: service.queue(jobs=a.rows or (500 if a.quick else 10_000), pages=50 if a.quick else 300),
}
ALWAYS = ("floor", "predict-alone", "tidemill", "tidemill-library")
"""Ratios are to these, and from the same rounds: they run whoever else was asked for."""

QUICK = ("W1-lightgbm", "W2-linear", "W6-small")
"""Workloads of `--quick`, if none are named; in W1 all engines run, elsewhere those that start fast."""

QUICK_ENGINES = ("own", "pandas", "pyarrow", "dask", "daft")


def main() -> None:
    # Ends as by ctrl-C: what is being measured is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = _arguments()
    if args.docs:
        print("\n".join(f"wrote {path.name}" for path in pages.write()) or "all pages are as the newest record")
        return
    if args.make:
        _make(args.contestants)
        return
    chosen = _chosen(args.only, quick=args.quick)
    for name in chosen:
        started = time.monotonic()
        if name in WORKLOADS:
            _contest(WORKLOADS[name], args)
        else:
            report = SCENARIOS[name](args)
            report.print(quick=args.quick)
            print(
                f"\n  {time.monotonic() - started:.0f} s, written to {report.write(quick=args.quick).name}", flush=True
            )


def _contest(workload: Workload, args: Sizes) -> None:
    path = record.path_of(args.into, quick=args.quick)
    kept = record.opened(path)
    part = contest.hold(
        workload,
        _names(workload, args.contestants, quick=args.quick),
        rows=args.rows or (workload.quick_rows if args.quick else workload.rows),
        rounds=args.rounds or (1 if args.quick else workload.rounds),
        quick=args.quick,
        make=not args.quick,
    )
    kept.add(part)
    record.write(kept, path)
    tables = path.with_suffix(".md")
    tables.write_text(table.whole(kept, targets.reasons()), encoding="utf-8")
    missed = [] if args.quick else [verdict for verdict in targets.verdicts(part) if verdict.missed]
    for verdict in missed:
        print(f"  over: {verdict.name} {verdict.value:.3g}, at most {verdict.at_most:.3g}")
    print(f"  {part.seconds:.0f} s, written to {path.name} and {tables.name}", flush=True)


def _names(workload: Workload, wanted: Sequence[str], *, quick: bool) -> list[str]:
    """Who runs: all of the workload, or those always there and those asked for.

    A full name adds a contestant also where it usually does not run, the first part of a name all that usually do.
    """
    names = list(workload.contestants)
    if wanted:
        asked = [each for each in CONTESTANTS if each in wanted or (each in names and each.partition("-")[0] in wanted)]
        names = [each for each in names if each in ALWAYS] + [each for each in asked if each not in ALWAYS]
    elif quick and workload.name != QUICK[0]:
        names = [name for name in names if CONTESTANTS[name].environment in QUICK_ENGINES]
    elif quick:
        names = [name for name in names if name not in ("ray-tasks-warm", "spark-udf-warm", "spark-mlflow-warm")]
    return names


def _chosen(only: Sequence[str], *, quick: bool) -> list[str]:
    known = [*WORKLOADS, *SCENARIOS]
    if not only:
        return [*QUICK] if quick else known
    unknown = [each for each in only if not any(name == each or name.startswith(f"{each}-") for name in known)]
    if unknown:
        raise SystemExit(f"There is no {', '.join(unknown)}. There are {', '.join(known)}; W1 is all of W1-...")
    return [name for name in known if any(name == each or name.startswith(f"{each}-") for each in only)]


def _make(wanted: Sequence[str]) -> None:
    engines = {each.environment for each in CONTESTANTS.values()} - {OWN}
    for engine in sorted(engines & set(wanted) if wanted else engines):
        try:
            print(f"{engine}: {python_of(engine).parent.parent.name} is ready")
        except Unavailable as exc:
            print(f"{engine}: not available: {exc}")


def _arguments() -> Sizes:
    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=words, default=[], metavar="NAMES", help="workloads and scenarios, by commas")
    parser.add_argument(
        "--contestants", type=words, default=[], metavar="NAMES", help=f"by commas, of {', '.join(CONTESTANTS)}"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, under five minutes")
    parser.add_argument("--rows", type=int, help="rows of the input (memory: of the small one; queue: jobs)")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs; the median counts")
    parser.add_argument("--into", metavar="NAME", help="the record, a file in benchmarks/results; by default of today")
    parser.add_argument("--make", action="store_true", help="make the environments of the peers and stop")
    parser.add_argument("--docs", action="store_true", help="write the pages that show figures and stop")
    args = parser.parse_args()
    unknown = [
        each for each in args.contestants if not any(each in (name, name.partition("-")[0]) for name in CONTESTANTS)
    ]
    if unknown:
        parser.error(f"no contestant {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    return args


if __name__ == "__main__":
    main()
