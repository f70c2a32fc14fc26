"""A record as Markdown: who took what, what was promised, and what was missed and why."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.harness.contest import REFERENCE, Part
from benchmarks.harness.contestants import CONTESTANTS
from benchmarks.harness.record import Record
from benchmarks.harness.targets import OWN, Verdict, median, ratio, verdicts
from benchmarks.workloads import WORKLOADS

COLUMNS = ("", "wall s", "CPU s", "peak MB", "rows/s", "wall ÷ floor", "wall ÷ ours", "CPU ÷ ours", "others")
ENGINES = ("pandas", "pyarrow", "dask", "daft", "ray", "spark")
NOT_MEASURED = "Not measured yet: `make bench`.\n"


def whole(record: Record, reasons: Mapping[str, str]) -> str:
    """Everything, one section for each workload."""
    sections = ["# Tidemill and peers\n", machine(record), "## At a glance\n", glance(record)]
    sections += [workload(record, name, reasons) for name in record.workloads()]
    return "\n".join(sections)


def machine(record: Record) -> str:
    """Where and with what it was measured."""
    told = record.machine
    versions = {**told["libraries"], **told["peers"]}
    names = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    days = sorted({part.at[:10] for part in record.parts})
    return (
        f"{' and '.join(dict.fromkeys((days[0], days[-1])))}; {told['cores']} cores of {told['cpu']}, "
        f"{told['memory_bytes'] / 2**30:.0f} GiB, {told['system']}, Python {told['python']}; {names}.\n"
    )


def glance(record: Record) -> str:
    """How many times more wall and CPU each engine took, in its fastest way: one line for each workload."""
    rows = []
    for name in record.workloads():
        cells = [_fastest(record.of(name), engine) for engine in ENGINES]
        if any(cells):
            rows.append([_called(record.of(name)[0]), *(cell or "—" for cell in cells)])
    head = [
        "wall / CPU, times ours",
        *(engine.capitalize() if engine != "pyarrow" else "pyarrow" for engine in ENGINES),
    ]
    return _table(head, rows)


def _called(part: Part) -> str:
    """What a stranger calls it."""
    known = WORKLOADS.get(part.workload)
    return f"{known.title if known else part.title}; {part.rows:,} rows"


def _fastest(parts: Sequence[Part], engine: str) -> str | None:
    """Cold runs only, as ours is."""
    found = [
        (1 / ratio(part, OWN, name, "wall_seconds"), 1 / ratio(part, OWN, name, "cpu_seconds"))
        for part in parts
        for name in part.runs
        if CONTESTANTS[name].environment == engine and not name.endswith("-warm") and OWN in part.runs
    ]
    return "{:.1f} / {:.1f}".format(*min(found)) if found else None


def workload(record: Record, name: str, reasons: Mapping[str, str]) -> str:
    """What each contestant took (newest part that has it), what was promised, and who did not run."""
    parts = record.of(name)
    first = parts[0]
    text = [f"## {name}: {first.title}\n", _measured(parts)]
    failed = {who: why for part in reversed(parts) for who, why in part.failed.items()}
    text += [f"- {CONTESTANTS[who].title}: {why}" for who, why in failed.items()]
    found = {verdict.name: verdict for part in reversed(parts) for verdict in verdicts(part)}
    text += ["", _verdicts(found.values(), reasons, judged=not first.quick)] if found else []
    return "\n".join(text)


def _measured(parts: Sequence[Part]) -> str:
    """Ratios are within the part that a contestant ran in."""
    rows: dict[str, list[str]] = {}
    for part in parts:
        for name in part.runs:
            if name not in rows:
                rows[name] = _row(part, name)
    order = [name for name in CONTESTANTS if name in rows]
    sizes = sorted({(part.rows, part.rounds) for part in parts}, reverse=True)
    told = "; ".join(f"{rows:,} rows, medians of {rounds} interleaved rounds" for rows, rounds in sizes)
    return f"{told}.\n\n{_table(COLUMNS, [rows[name] for name in order])}"


def _row(part: Part, name: str) -> list[str]:
    def against(other: str, key: str) -> str:
        return f"{ratio(part, name, other, key):.2f}" if other in part.runs and other != name else "—"

    wall = median(part, name, "wall_seconds")
    return [
        CONTESTANTS[name].title,
        f"{wall:.2f}",
        f"{median(part, name, 'cpu_seconds'):.2f}",
        f"{median(part, name, 'peak_pss_bytes') / 1e6:,.0f}",
        f"{statistics.median(run['rows'] for run in part.runs[name]) / wall:,.0f}",
        against(REFERENCE, "wall_seconds"),
        against(OWN, "wall_seconds"),
        against(OWN, "cpu_seconds"),
        f"{median(part, name, 'others_share'):.0%}",
    ]


def _verdicts(found: Iterable[Verdict], reasons: Mapping[str, str], *, judged: bool) -> str:
    rows = []
    for verdict in found:
        if verdict.at_most is None or not judged:
            limit, kept = "", ""
        else:
            limit = f"{verdict.at_most:.3g}"
            kept = f"missed: {reasons.get(verdict.key, 'the reason is not known yet')}" if verdict.missed else "kept"
        rows.append([verdict.name, f"{verdict.value:.3g}", limit, kept])
    return _table(("ours / theirs", "ratio", "at most", ""), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
