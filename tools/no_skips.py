"""Read pytest's junit report and fail if any test was switched off: skipped, expected to fail, or deselected.

A deselected test leaves no trace in the report: so the tests are collected once more and counted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

TOTALS = re.compile(r"^(?:(?P<kept>\d+)/)?(?P<found>\d+) tests? (?:collected|found)|^no tests", re.MULTILINE)


def switched_off(report: Path) -> tuple[int, list[str]]:
    """(number of tests in the report, a line for each that did not run)."""
    cases = list(ET.parse(report).getroot().iter("testcase"))
    lines = [
        f"{case.get('classname')}::{case.get('name')}: {skipped.get('type')}: {skipped.get('message')}"
        for case in cases
        for skipped in case.iter("skipped")
    ]
    return len(cases), lines


def collected(tests: str) -> int:
    """How many tests there are, deselected ones included."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, capture_output=True, text=True)
    found = TOTALS.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"no_skips: tests cannot be collected:\n{done.stdout}{done.stderr}")
    return int(found["found"] or 0)


def main(arguments: list[str]) -> int:
    report = Path(arguments[0])
    tests = arguments[1] if len(arguments) > 1 else "tests"
    ran, lines = switched_off(report)
    there = collected(tests)
    if ran < there:
        lines.append(f"{there} tests are there, but the report has only {ran}")
    if not ran:
        lines.append("the report has no tests")
    for line in lines:
        print(f"no_skips: {line}", file=sys.stderr)
    print(f"no_skips: {ran} tests in the report, {there} collected, {len(lines)} complaints")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
