"""Pages that show figures: what stands between two marks is written from the newest record, never by hand."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.harness import record, table, targets
from benchmarks.harness.places import ROOT

PAGES = (ROOT / "docs" / "explanation" / "performance.md", ROOT / "README.md")
_BLOCK = re.compile(r"(<!-- benchmark: (?P<what>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, newest: Path | None) -> str:
    """The page with all blocks `<!-- benchmark: WHAT --> ... <!-- end -->` filled.

    WHAT is `machine`, `glance` or the name of a workload. Without a record, or for a workload that it lacks, the
    block says so.
    """
    found = record.read(newest) if newest is not None else None

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n{_shown(found, match['what'])}\n{match[3]}"

    return _BLOCK.sub(block, text)


def _shown(found: record.Record | None, what: str) -> str:
    if found is None:
        return table.NOT_MEASURED
    if what == "machine":
        return table.machine(found)
    if what == "glance":
        return table.glance(found)
    if what not in found.workloads():
        return table.NOT_MEASURED
    # The page has headings of its own.
    return table.workload(found, what, targets.reasons()).partition("\n")[2].lstrip("\n")


def write() -> list[Path]:
    """Fill all pages from the newest record; those that changed."""
    changed = []
    for path in PAGES:
        old = path.read_text(encoding="utf-8")
        new = filled(old, record.newest())
        if new != old:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed
