"""The judge itself: an honest output passes, every kind of lie is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests import checker
from tests.crash.rig.job import write_inputs


def _publish(inputs: list[Path], output: Path) -> None:
    """Write by hand what a right job would publish."""
    rows, start = checker.read_inputs(inputs), 0
    y = checker.mix(rows["file_no"].to_numpy(), rows["row_no"].to_numpy())
    bad = checker.is_bad(y)
    assert 0 < bad.sum() < len(bad)
    good = rows.append_column("prediction", pa.array(y)).filter(pa.array(~bad))
    output.mkdir(parents=True)
    for number, start in enumerate(range(0, good.num_rows, 1500)):
        pq.write_table(good.slice(start, 1500), output / f"part-{number:05d}.parquet")
    _write_rejected(inputs, output, lambda keys: keys)
    _write_manifest(output, rows.num_rows, int(bad.sum()))


def _write_rejected(inputs: list[Path], output: Path, change: Callable[[list[tuple[str, int]]], object]) -> None:
    keys = []
    for file in inputs:
        rows = pq.read_table(file)
        bad = checker.is_bad(checker.mix(rows["file_no"].to_numpy(), rows["row_no"].to_numpy()))
        keys += [(str(file), number) for number in range(rows.num_rows) if bad[number]]
    change(keys)
    folder = output.with_name(f"{output.name}.rejected")
    folder.mkdir(exist_ok=True)
    names = {"_file": [key[0] for key in keys], "_row": [key[1] for key in keys]}
    why = {"_error": ["ValueError"] * len(keys), "_message": ["no"] * len(keys)}
    pq.write_table(pa.table({**names, **why}), folder / "part-00000.parquet")


def _write_manifest(output: Path, total: int, rejected: int) -> None:
    files = []
    for name in checker.data_files(output):
        path = output.parent / name
        files.append(
            {
                "kind": "rejected" if ".rejected/" in name else "predictions",
                "name": name,
                "rows": pq.read_metadata(path).num_rows,
                "size_bytes": path.stat().st_size,
                "sha256": checker.digest(path),
            }
        )
    counts = {"total": total, "predicted": total - rejected, "rejected": rejected}
    checker.manifest_path(output).write_text(json.dumps({"job_id": "x", "files": files, "counts": counts}))


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    return write_inputs(tmp_path / "in", rows=(3000, 2500))


@pytest.fixture
def output(tmp_path: Path, inputs: list[Path]) -> Path:
    _publish(inputs, tmp_path / "place" / "scores")
    return tmp_path / "place" / "scores"


def test_an_honest_output_passes(inputs: list[Path], output: Path) -> None:
    found = checker.check(inputs, output)
    assert found.rows == 5500
    assert found.rejected > 0
    assert checker.main([str(output), *map(str, inputs)]) == 0


def _rewrite(output: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change one part, and let the manifest agree."""
    path = output / "part-00001.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    counts = checker.read_manifest(output)["counts"]
    _write_manifest(output, counts["total"], counts["rejected"])


def _doubled(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 1), table.slice(0, table.num_rows - 1)])


def _swapped(table: pa.Table) -> pa.Table:
    return table.take([1, 0, *range(2, table.num_rows)])


def _shifted(table: pa.Table) -> pa.Table:
    y = table["prediction"].combine_chunks()
    return table.set_column(3, "prediction", pa.concat_arrays([y[1:], y[:1]]))


def _other_note(table: pa.Table) -> pa.Table:
    return table.set_column(2, "note", pc.utf8_upper(table["note"]))


TABLE_LIES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "lost": (lambda table: table.slice(1), "lost 1"),
    "doubled": (_doubled, "doubled 1"),
    "swapped": (_swapped, "row_no is not the input's"),
    "shifted values": (_shifted, "wrong predictions"),
    "changed column": (_other_note, "note is not the input's"),
}


@pytest.mark.parametrize("lie", TABLE_LIES)
def test_wrong_rows_are_seen(lie: str, inputs: list[Path], output: Path) -> None:
    change, reason = TABLE_LIES[lie]
    _rewrite(output, change)
    with pytest.raises(checker.Wrong, match=reason):
        checker.check(inputs, output)


@pytest.mark.parametrize(
    "change", [lambda keys: keys.pop(), lambda keys: keys.append(("x", 1)), lambda keys: keys.reverse()]
)
def test_wrong_rejected_rows_are_seen(
    change: Callable[[list[object]], object], inputs: list[Path], output: Path
) -> None:
    _write_rejected(inputs, output, change)
    counts = checker.read_manifest(output)["counts"]
    _write_manifest(output, counts["total"], counts["rejected"])
    with pytest.raises(checker.Wrong, match="rejected rows differ"):
        checker.check(inputs, output)


def _leftover(output: Path) -> None:
    output.with_name(f".{output.name}.tidemill.claim").touch()


def _extra_file(output: Path) -> None:
    (output / "part-99999.parquet").touch()


def _other_bytes(output: Path) -> None:
    path = output / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _shorter(output: Path) -> None:
    path = output / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def _gone(output: Path) -> None:
    (output / "part-00000.parquet").unlink()


def _no_manifest(output: Path) -> None:
    checker.manifest_path(output).unlink()


def _no_reconciling(output: Path) -> None:
    counts = checker.read_manifest(output)["counts"]
    _write_manifest(output, counts["total"], counts["rejected"])
    manifest = checker.read_manifest(output)
    manifest["counts"]["predicted"] += 1
    checker.manifest_path(output).write_text(json.dumps(manifest))


FOLDER_LIES: dict[str, Callable[[Path], None]] = {
    "left over": _leftover,
    "manifest and folder differ": _extra_file,
    "another checksum": _other_bytes,
    "bytes, the manifest says": _shorter,
    "folder differ": _gone,
    "no manifest": _no_manifest,
    "do not reconcile": _no_reconciling,
}


@pytest.mark.parametrize("reason", FOLDER_LIES)
def test_wrong_folders_are_seen(reason: str, inputs: list[Path], output: Path) -> None:
    FOLDER_LIES[reason](output)
    with pytest.raises(checker.Wrong, match=reason):
        checker.check(inputs, output)


def test_old_or_new_but_nothing_between(tmp_path: Path, inputs: list[Path], output: Path) -> None:
    older = write_inputs(tmp_path / "older", rows=(400,), first=50)
    assert checker.check_old_or_new(output, older, inputs) == "new"
    assert checker.check_old_or_new(output, inputs, older) == "old"
    _rewrite(output, lambda table: table.slice(1))
    with pytest.raises(checker.Wrong):
        checker.check_old_or_new(output, older, inputs)
