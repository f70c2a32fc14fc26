"""Run benchmarks: prints ratios and writes benchmarks/results/<date>-<scenario>.json.

    python benchmarks/run.py                     all scenarios, about 25 minutes on two cores
    python benchmarks/run.py --quick             all scenarios, small, about two minutes
    python benchmarks/run.py throughput --rows 1000000 --rounds 5

Absolute times mean little on a shared machine, so contestants take turns and ratios are compared.
Nothing here fails because it is slow; it fails if a result is wrong.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cold
import linear
import memory
import overhead
import resume
import service
import throughput
from report import Report

Sizes = argparse.Namespace
SCENARIOS: dict[str, Callable[[Sizes], Report]] = {
    "throughput": lambda a: throughput.run(
        rows=a.rows or (250_000 if a.quick else 5_000_000), rounds=a.rounds or (1 if a.quick else 3), trees=a.trees
    ),
    "linear": lambda a: linear.run(
        rows=a.rows or (500_000 if a.quick else 5_000_000), rounds=a.rounds or (1 if a.quick else 3)
    ),
    "memory": lambda a: memory.run(
        rows=a.rows or (500_000 if a.quick else 2_000_000), times=a.times, rounds=a.rounds or (1 if a.quick else 2)
    ),
    "cold": lambda a: cold.run(rows=a.rows or 1_000, rounds=a.rounds or (2 if a.quick else 7)),
    "overhead": lambda a: overhead.run(
        rows=a.rows or (250_000 if a.quick else 2_000_000), rounds=a.rounds or (1 if a.quick else 3)
    ),
    "resume": lambda a: resume.run(rounds=a.rounds or (1 if a.quick else 3)),
    "warm": lambda a: service.warm(rows=a.rows or 1_000, rounds=a.rounds or (5 if a.quick else 40)),
    "queue": lambda a: service.queue(jobs=a.rows or (500 if a.quick else 10_000), pages=50 if a.quick else 300),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--rows", type=int, help="rows of the input (memory: of the small one; queue: jobs)")
    parser.add_argument("--rounds", type=int, help="how often each contestant runs; the median counts")
    parser.add_argument("--trees", type=int, default=200, help="trees of the model (throughput)")
    parser.add_argument("--times", type=int, default=10, help="how much bigger the big input is (memory)")
    args = parser.parse_args()
    unknown = set(args.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    for name in args.scenarios or SCENARIOS:
        started = time.monotonic()
        report = SCENARIOS[name](args)
        report.print(quick=args.quick)
        path = report.write(quick=args.quick)
        print(f"\n  {time.monotonic() - started:.0f} s, written to benchmarks/results/{path.name}", flush=True)


if __name__ == "__main__":
    main()
