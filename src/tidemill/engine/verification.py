"""Is a finished output what its manifest says, and how do two differ. Runs in children."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.domain.errors import InvalidSpec, SchemaMismatch

Progress = Callable[[dict[str, Any]], None]

BATCH_ROWS = 65_536


def verify(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Check every file of a manifest: there, size, sha256, and for Parquet the rows in its footer.

    request: {"parent", "files", "format"}. Returns {"problems": [text], "files", "bytes"}.
    """
    problems, total = [], 0
    for entry in request["files"]:
        path = Path(request["parent"]) / entry["name"]
        problem = _problem(path, entry, request["format"])
        if problem:
            problems.append(f"{path}: {problem}")
        total += entry["size_bytes"]
        progress({"bytes": total})
    return {"problems": problems, "files": len(request["files"]), "bytes": total}


def _problem(path: Path, entry: Mapping[str, Any], form: str) -> str | None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as exc:
        return exc.strerror or str(exc)
    if size != entry["size_bytes"]:
        return f"{size:,} bytes, the manifest says {entry['size_bytes']:,}"
    if digest != entry["sha256"]:
        return "its content is not what was published (sha256 differs)"
    if form == "parquet":
        rows = pq.read_metadata(path).num_rows
        if rows != entry["rows"]:
            return f"{rows:,} rows, the manifest says {entry['rows']:,}"
    return None


def compare(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """How the predictions of two Parquet outputs of the same rows differ, row by row in their order.

    request: {"left", "right"} (paths of Parquet files, in order). Returns {"rows_left", "rows_right",
    "columns": [{"name", "different", "max_difference", "mean_difference"}], "only_left", "only_right"}.
    Numbers are compared as numbers: NaN equals NaN, null equals null.
    """
    left, right = _Side(request["left"]), _Side(request["right"])
    there = set(right.schema.names)
    shared = [name for name in left.schema.names if name in there]
    if not shared:
        raise SchemaMismatch(
            "The two outputs have no column in common.", remedy="Compare outputs that kept the same columns."
        )
    stats = {name: _Difference(name) for name in shared}
    rows = 0
    for a, b in _pairs(left.batches(shared), right.batches(shared)):
        for name in shared:
            stats[name].add(a.column(name), b.column(name))
        rows += a.num_rows
    return {
        "rows_left": left.rows,
        "rows_right": right.rows,
        "rows_compared": rows,
        "columns": [stats[name].to_json() for name in shared],
        "only_left": [name for name in left.schema.names if name not in stats],
        "only_right": [name for name in right.schema.names if name not in stats],
    }


class _Side:
    def __init__(self, paths: list[str]) -> None:
        if not paths:
            raise InvalidSpec("There is nothing to compare: no files.", remedy="Name two finished outputs.")
        self.files = [pq.ParquetFile(path) for path in paths]
        self.schema = self.files[0].schema_arrow
        self.rows = sum(file.metadata.num_rows for file in self.files)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for file in self.files:
            yield from file.iter_batches(BATCH_ROWS, columns=columns)


def _pairs(
    left: Iterator[pa.RecordBatch], right: Iterator[pa.RecordBatch]
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        rows = min(a.num_rows, b.num_rows)
        if rows:
            yield a.slice(0, rows), b.slice(0, rows)
        a = a.slice(rows) if a.num_rows > rows else next(left, None)
        b = b.slice(rows) if b.num_rows > rows else next(right, None)


class _Difference:
    def __init__(self, name: str) -> None:
        self.name = name
        self.different = self.numeric_rows = 0
        self.largest = self.total = 0.0

    def add(self, a: pa.Array, b: pa.Array) -> None:
        numeric = all(pa.types.is_floating(x.type) or pa.types.is_integer(x.type) for x in (a, b))
        if numeric and any(pa.types.is_floating(x.type) for x in (a, b)):
            self._add_numbers(a, b)
            return
        if a.type != b.type:
            b = pc.cast(b, a.type, safe=False)
        equal = pc.fill_null(pc.equal(a, b), False)
        both_null = pc.and_(pc.is_null(a), pc.is_null(b))
        self.different += len(a) - int(pc.sum(pc.or_(equal, both_null)).as_py() or 0)

    def _add_numbers(self, a: pa.Array, b: pa.Array) -> None:
        x, y = (pc.cast(side, pa.float64(), safe=False).to_numpy(zero_copy_only=False) for side in (a, b))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        gap = np.abs(x[~same] - y[~same])
        gap = gap[~np.isnan(gap)]
        self.different += int(np.count_nonzero(~same))
        self.numeric_rows += len(x)
        if len(gap):
            self.largest = max(self.largest, float(gap.max()))
            self.total += float(gap.sum())

    def to_json(self) -> dict[str, Any]:
        mean = self.total / self.numeric_rows if self.numeric_rows else None
        largest = self.largest if self.numeric_rows else None
        return {"name": self.name, "different": self.different, "max_difference": largest, "mean_difference": mean}
