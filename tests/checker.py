"""The independent judge of a finished job: plain pyarrow and sqlite3, never tidemill.

Test inputs carry their row key (`file_no`, `row_no`) and test models compute y = mix(row key), so each
prediction proves which row it came from. As a program: checker.py OUTPUT INPUT... prints what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REJECT_EVERY = 1009
"""A row whose mix divides by this is one that the test model refuses."""


class Wrong(AssertionError):
    """The output is not what the input and the model demand."""


def mix(file_no: np.ndarray[Any, Any], row_no: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A 53-bit integer of each row key, exact as float64."""
    with np.errstate(over="ignore"):
        z = (file_no.astype(np.uint64) << np.uint64(32)) + row_no.astype(np.uint64)
        z += np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64)


def is_bad(y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which rows the test model refuses."""
    return y.astype(np.int64) % REJECT_EVERY == 0


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a check found, for records."""

    rows: int
    predicted: int
    rejected: int
    sha256: dict[str, str]
    """Of every published data file, by its name relative to the output's parent."""


def check(
    inputs: Sequence[Path],
    output: Path,
    *,
    before: Sequence[Path] = (),
    kept: Sequence[str] = ("file_no", "row_no", "note"),
    values: bool = True,
    alone: bool = True,
) -> Published:
    """Raise Wrong unless the output holds every input row once, in order, with the right value.

    `before` are inputs of earlier jobs that an append kept. `values` False leaves the predictions'
    values out (models that are no function of the row key alone; then no row is bad). `alone` demands
    that nothing but the output and its siblings lies in its folder.
    """
    manifest = read_manifest(output)
    check_manifest(output, manifest)
    if alone:
        check_nothing_left(output, manifest)
    mine = read_inputs(inputs)
    older = read_inputs(before) if before else mine.slice(0, 0)
    bad, older_bad = _bad(mine, values), _bad(older, values)
    expected = pa.concat_tables([older.filter(pa.array(~older_bad)), mine.filter(pa.array(~bad))])
    found = read_data(output)
    _same_rows(expected, found, kept)
    if values:
        _same_values(expected, found)
    _rejected(inputs, before, bad, older_bad, output)
    return Published(
        rows=mine.num_rows,
        predicted=int((~bad).sum()),
        rejected=int(bad.sum()),
        sha256={name: digest(output.parent / name) for name in data_files(output)},
    )


def read_inputs(files: Sequence[Path]) -> pa.Table:
    """All input rows, in order."""
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files])


def data_files(output: Path) -> list[str]:
    """Published data and rejected files in order of their names, relative to the output's parent."""
    names = []
    for place in (output, rejected_place(output)):
        if place.is_dir():
            names += sorted(str(file.relative_to(output.parent)) for file in place.iterdir())
        elif place.exists():
            names.append(place.name)
    return names


def rejected_place(output: Path) -> Path:
    return output.with_name(f"{output.stem}.rejected{output.suffix}")


def manifest_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}.manifest.json")


def read_manifest(output: Path) -> dict[str, Any]:
    path = manifest_path(output)
    if not path.exists():
        raise Wrong(f"{output} has no manifest")
    return dict(json.loads(path.read_text()))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_data(output: Path) -> pa.Table:
    """The predictions, in order of file names, read file by file."""
    files = sorted(output.iterdir()) if output.is_dir() else [output]
    if not files or not all(file.exists() for file in files):
        raise Wrong(f"no data at {output}")
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files])


def check_manifest(output: Path, manifest: dict[str, Any]) -> None:
    """Every listed file is there with its size, rows and checksum; no other is; the counts reconcile."""
    listed = manifest["files"]
    names = [entry["name"] for entry in listed]
    if len(set(names)) != len(names):
        raise Wrong("the manifest names a file twice")
    if set(names) != set(data_files(output)):
        raise Wrong(f"manifest and folder differ: {sorted(set(names) ^ set(data_files(output)))[:5]}")
    for entry in listed:
        path = output.parent / entry["name"]
        if path.stat().st_size != entry["size_bytes"]:
            raise Wrong(f"{path} has {path.stat().st_size} bytes, the manifest says {entry['size_bytes']}")
        if digest(path) != entry["sha256"]:
            raise Wrong(f"{path} has another checksum than the manifest says")
        if pq.ParquetFile(path).metadata.num_rows != entry["rows"]:
            raise Wrong(f"{path} has other rows than the manifest says")
    counts = manifest["counts"]
    if counts["total"] != counts["predicted"] + counts["rejected"]:
        raise Wrong(f"counts do not reconcile: {counts}")


def check_nothing_left(output: Path, manifest: dict[str, Any]) -> None:
    """Beside the output lie its manifest and, if rows were rejected, those; nothing hidden, nothing else."""
    allowed = {output.name, manifest_path(output).name}
    if any(entry["kind"] == "rejected" for entry in manifest["files"]):
        allowed.add(rejected_place(output).name)
    found = {path.name for path in output.parent.iterdir()}
    if found != allowed:
        raise Wrong(f"beside the output: left over {sorted(found - allowed)}, missing {sorted(allowed - found)}")


def check_nothing_visible(output: Path) -> None:
    """Nothing under the output's name or its siblings': a job that has not committed shows nothing."""
    seen = [path.name for path in (output, rejected_place(output), manifest_path(output)) if path.exists()]
    if seen:
        raise Wrong(f"visible before the job committed: {seen}")


def check_old_or_new(output: Path, old: Sequence[Path], new: Sequence[Path]) -> str:
    """What a reader sees while an output is replaced: all of the old rows or all of the new; which."""
    found = read_data(output)
    problems = []
    for name, files in (("old", old), ("new", new)):
        table = read_inputs(files)
        try:
            expected = table.filter(pa.array(~_bad(table, True)))
            _same_rows(expected, found, ("file_no", "row_no", "note"))
            _same_values(expected, found)
            return name
        except Wrong as wrong:
            problems.append(f"not the {name} rows: {wrong}")
    raise Wrong("; ".join(problems))


def _bad(table: pa.Table, values: bool) -> np.ndarray[Any, Any]:
    if not values:
        return np.zeros(table.num_rows, dtype=bool)
    return is_bad(_mix_of(table))


def _mix_of(table: pa.Table) -> np.ndarray[Any, Any]:
    return mix(table["file_no"].to_numpy(), table["row_no"].to_numpy())


def _same_rows(expected: pa.Table, found: pa.Table, kept: Sequence[str]) -> None:
    if found.num_rows != expected.num_rows:
        raise Wrong(f"{found.num_rows} predictions of {expected.num_rows} rows; {_lost_or_doubled(expected, found)}")
    for column in kept:
        if not found[column].combine_chunks().equals(expected[column].combine_chunks()):
            raise Wrong(f"column {column} is not the input's; {_lost_or_doubled(expected, found)}")


def _lost_or_doubled(expected: pa.Table, found: pa.Table) -> str:
    want = {*zip(expected["file_no"].to_pylist(), expected["row_no"].to_pylist(), strict=True)}
    have = [*zip(found["file_no"].to_pylist(), found["row_no"].to_pylist(), strict=True)]
    lost, strange = sorted(want - set(have)), sorted(set(have) - want)
    return f"lost {len(lost)} {lost[:3]}, doubled {len(have) - len(set(have))}, strange {len(strange)} {strange[:3]}"


def _same_values(expected: pa.Table, found: pa.Table) -> None:
    want, have = _mix_of(expected), found["prediction"].to_numpy()
    wrong = np.flatnonzero(want != have)
    if wrong.size:
        raise Wrong(
            f"{wrong.size} wrong predictions, the first at row {wrong[0]}: {have[wrong[0]]} not {want[wrong[0]]}"
        )


def _rejected(
    inputs: Sequence[Path],
    before: Sequence[Path],
    bad: np.ndarray[Any, Any],
    older_bad: np.ndarray[Any, Any],
    output: Path,
) -> None:
    want = _keys(before, older_bad) + _keys(inputs, bad)
    place = rejected_place(output)
    if not want:
        if place.exists():
            raise Wrong("there are rejected rows, none should be")
        return
    if not place.exists():
        raise Wrong(f"{len(want)} rejected rows are nowhere")
    table = read_data(place)
    have = [*zip(table["_file"].to_pylist(), table["_row"].to_pylist(), strict=True)]
    if have != want:
        raise Wrong(
            f"rejected rows differ: missing {[*set(want) - set(have)][:3]}, extra {[*set(have) - set(want)][:3]}"
        )
    if not all(table["_message"].to_pylist()) or not all(table["_error"].to_pylist()):
        raise Wrong("a rejected row has no reason")


def _keys(files: Sequence[Path], bad: np.ndarray[Any, Any]) -> list[tuple[str, int]]:
    keys, start = [], 0
    for file in files:
        rows = pq.ParquetFile(file).metadata.num_rows
        keys += [(str(file), int(row)) for row in np.flatnonzero(bad[start : start + rows])]
        start += rows
    return keys


def check_store(database: Path, output: Path) -> None:
    """The store agrees with the published manifest: one finished job, its counts, its chunks once each."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise Wrong("the database is damaged")
        rows = db.execute(
            "SELECT state, chunks_total, chunks_done, id FROM jobs WHERE output = ?", (str(output),)
        ).fetchall()
        finished = [row for row in rows if row[0].startswith("succeeded")]
        if len(finished) != 1:
            raise Wrong(f"the store knows {len(finished)} finished jobs of {len(rows)} for {output}")
        _, total, done, job_id = finished[0]
        chunks = [number for (number,) in db.execute("SELECT chunk FROM chunks WHERE job_id = ? ORDER BY 1", (job_id,))]
        if done != total or (chunks and chunks != [*range(total)]):
            raise Wrong(f"{done} of {total} chunks are done, rows say {len(chunks)}")


def main(arguments: Sequence[str]) -> int:
    try:
        found = check([Path(name).absolute() for name in arguments[1:]], Path(arguments[0]).absolute())
    except Wrong as wrong:
        print(f"WRONG: {wrong}")
        return 1
    print(f"ok: {found.rows} = {found.predicted} predicted + {found.rejected} rejected")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
