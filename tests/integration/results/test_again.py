"""Rejected rows are scored again: exactly those, wherever they lie, and the union is what a clean run gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from tests.integration.results.inprocess import member, run_job
from tidemill.domain.errors import InputChanged, InvalidSpec
from tidemill.engine import results
from tidemill.engine.results import View

ROWS = 1_000
BAD = [n for n in range(ROWS) if n % 27 == 13]
MODEL = f"{Path(__file__).with_name('flagged.py')}:Flagged"
FORMATS = ("parquet", "csv", "jsonl", "orc")


def table(start: int, stop: int) -> pa.Table:
    return pa.table({"n": pa.array(range(start, stop), pa.int64()), "name": [f"row {n}" for n in range(start, stop)]})


def write_parquet(path: Path, rows: pa.Table) -> None:
    pq.write_table(rows, path, row_group_size=90)


def write_csv(path: Path, rows: pa.Table) -> None:
    pa.csv.write_csv(rows, path)


def write_jsonl(path: Path, rows: pa.Table) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))


def write_orc(path: Path, rows: pa.Table) -> None:
    orc.write_table(rows, path)


WRITE: dict[str, Callable[[Path, pa.Table], None]] = {
    "parquet": write_parquet,
    "csv": write_csv,
    "jsonl": write_jsonl,
    "orc": write_orc,
}


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that mends the model; it may list rows that stay bad."""
    path = tmp_path / "mended"
    monkeypatch.setenv("TEST_FLAG", str(path))
    return path


def make_input(folder: Path, form: str) -> Path:
    """1,000 rows in three files, one of them without a bad row."""
    folder.mkdir()
    for name, start, stop in (("a", 0, 400), ("b", 400, 410), ("c", 410, ROWS)):
        WRITE[form](folder / f"{name}.{form}", table(start, stop))
    return folder


def words(inputs: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "id": "n",
        "input": {"path": str(inputs), **more.pop("input", {})},
        "output": {"path": str(output), "format": more.pop("format", "parquet")},
        "compute": {"rows_per_chunk": 300, "batch_rows": 64},
        **more,
    }


def rows_of(manifest: dict[str, Any], kind: str = "predictions") -> list[dict[str, Any]]:
    return rows_of_view([member(manifest)], kind)


def rows_of_view(members: list[dict[str, Any]], kind: str = "predictions") -> list[dict[str, Any]]:
    return [row for batch in View.from_json({"members": members}).rows(kind) for row in batch.to_pylist()]  # type: ignore[arg-type]


def ask(members: list[dict[str, Any]], what: str, **more: Any) -> dict[str, Any]:
    return results.read({"ask": what, "members": members, **more}, lambda seen: None)


@pytest.mark.parametrize("form", FORMATS)
def test_the_rejected_rows_and_no_others_are_scored_again(form: str, tmp_path: Path, flag: Path) -> None:
    inputs = make_input(tmp_path / "in", form)
    first = run_job(words(inputs, tmp_path / "first", format=form))
    assert first["counts"] == {"total": ROWS, "predicted": ROWS - len(BAD), "rejected": len(BAD)}
    assert len(BAD) == 37
    flag.touch()
    again = run_job(words(inputs, tmp_path / "again", format=form, input={"rejected_of": first["job_id"]}), first)
    assert again["counts"] == {"total": 37, "predicted": 37, "rejected": 0}
    assert [int(row["n"]) for row in rows_of(again)] == BAD
    clean = run_job(words(inputs, tmp_path / "clean", format=form))
    union = [member(first), member(again, first, 0)]
    assert rows_of_view(union) == rows_of(clean)
    assert len(rows_of(clean)) == ROWS
    assert rows_of_view(union, "rejected") == []
    assert ask(union, "counts") == {"predicted": ROWS, "rejected": 0}
    target = tmp_path / f"union.{form}"
    ask(union, "export", kind="predictions", format=form, target=str(target))
    whole = tmp_path / f"whole.{form}"
    ask([member(clean)], "export", kind="predictions", format=form, target=str(whole))
    assert target.read_bytes() == whole.read_bytes()


def test_rows_that_stay_bad_keep_their_key_and_can_be_tried_again(tmp_path: Path, flag: Path) -> None:
    inputs = make_input(tmp_path / "in", "csv")
    broken = (inputs / "b.csv").read_text().splitlines()
    (inputs / "b.csv").write_text("\n".join([*broken[:4], "unreadable", *broken[4:]]) + "\n")
    first = run_job(words(inputs, tmp_path / "first"))
    unreadable = {"_file": str(inputs / "b.csv"), "_row": 3, "_stage": "read"}
    assert first["counts"]["rejected"] == 38
    flag.write_text("40 67 418")
    second = run_job(words(inputs, tmp_path / "second", input={"rejected_of": first["job_id"]}), first)
    assert second["counts"] == {"total": 38, "predicted": 34, "rejected": 4}
    keys = [(row["_file"], row["_row"]) for row in rows_of(second, "rejected")]
    a, b, c = (str(inputs / name) for name in ("a.csv", "b.csv", "c.csv"))
    assert keys == [(a, 40), (a, 67), (b, 3), (c, 8)]
    assert unreadable.items() <= rows_of(second, "rejected")[2].items()
    flag.write_text("67")
    third = run_job(words(inputs, tmp_path / "third", input={"rejected_of": second["job_id"]}), second)
    assert third["counts"] == {"total": 4, "predicted": 2, "rejected": 2}
    union = [member(first), member(second, first, 0), member(third, second, 1)]
    assert ask(union, "counts") == {"predicted": ROWS - 1, "rejected": 2}
    assert [int(row["n"]) for row in rows_of_view(union)] == [n for n in range(ROWS) if n != 67]
    left = rows_of_view(union, "rejected")
    assert [(row["_file"], row["_row"]) for row in left] == [(a, 67), (b, 3)]
    of_retry = [member(second, first), member(third, second, 0)]
    assert [int(row["n"]) for row in rows_of_view(of_retry)] == [n for n in BAD if n != 67]


def test_of_two_retries_of_one_job_the_first_to_finish_counts(tmp_path: Path, flag: Path) -> None:
    inputs = make_input(tmp_path / "in", "parquet")
    first = run_job(words(inputs, tmp_path / "first"))
    retry = {"input": {"rejected_of": first["job_id"]}}
    flag.write_text(" ".join(map(str, BAD[::2])))
    one = run_job(words(inputs, tmp_path / "one", **retry), first)
    flag.write_text(" ".join(map(str, BAD[-3:])))
    two = run_job(words(inputs, tmp_path / "two", **retry), first)
    union = [member(first), member(one, first, 0), member(two, first, 0)]
    assert [row["n"] for row in rows_of_view(union)] == [n for n in range(ROWS) if n not in (BAD[-1], BAD[-3])]
    assert [row["n"] for row in rows_of_view(union, "rejected")] == [BAD[-3], BAD[-1]]
    assert ask(union, "counts") == {"predicted": ROWS - 2, "rejected": 2}
    assert ask(union, "look_up", where={"n": str(BAD[0])}, rows=100)["rows"] == [
        [BAD[0], f"row {BAD[0]}", 2.0 * BAD[0] + 1]
    ]
    assert ask(union, "look_up", where={"n": str(BAD[-1])}, rows=100)["rows"] == []


def test_the_same_plan_every_time_and_only_blocks_with_such_rows(tmp_path: Path, flag: Path) -> None:
    inputs = make_input(tmp_path / "in", "parquet")
    first = run_job(words(inputs, tmp_path / "first"))
    flag.touch()
    made = [
        run_job(words(inputs, tmp_path / name, input={"rejected_of": first["job_id"]}), first) for name in ("x", "y")
    ]
    hashes = [[entry["sha256"] for entry in manifest["files"]] for manifest in made]
    assert hashes[0] == hashes[1]
    assert made[0]["selection"] == {"parent_id": first["job_id"], "snapshot_rows": ROWS, "first_rows": (0, 410)}


def test_another_input_is_refused(tmp_path: Path, flag: Path) -> None:
    inputs = make_input(tmp_path / "in", "parquet")
    first = run_job(words(inputs, tmp_path / "first"))
    retry = words(inputs, tmp_path / "again", input={"rejected_of": first["job_id"]})
    write_parquet(inputs / "d.parquet", table(0, 5))
    with pytest.raises(InputChanged, match="added"):
        run_job(retry, first)
    (inputs / "d.parquet").unlink()
    write_parquet(inputs / "c.parquet", table(410, 500))
    with pytest.raises(InputChanged, match="row 575 was rejected"):
        run_job({**retry, "output": {"path": str(tmp_path / "other")}}, first)


def test_nothing_rejected_is_nothing_to_score_again(tmp_path: Path, flag: Path) -> None:
    inputs = make_input(tmp_path / "in", "parquet")
    flag.touch()
    first = run_job(words(inputs, tmp_path / "first"))
    with pytest.raises(InvalidSpec, match="rejected no rows"):
        run_job(words(inputs, tmp_path / "again", input={"rejected_of": first["job_id"]}), first)
