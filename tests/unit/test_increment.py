"""Which files a job of a series takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.errors import AlreadyScored
from tidemill.domain.plan import InputFile
from tidemill.engine import increment, planfile, planner
from tidemill.engine.increment import Record, Unscored, unscored, write_record
from tidemill.wire.spec import JobSpec

NOW_NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def file(path: str, size: int = 1, mtime_ns: int = 1) -> InputFile:
    return InputFile(path=path, size_bytes=size, mtime_ns=mtime_ns)


def chooser(folder: Path, *scored: InputFile, **words: Any) -> Unscored:
    record = folder / "record.db"
    write_record(record, scored)
    request = {"record": str(record), "series": "s", "number": 3, "settle_seconds": 0.0, "changed": "score", **words}
    return Unscored(request, now_ns=NOW_NS)


PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=3).map(lambda name: f"/in/{name}")


@pytest.mark.parametrize("skipped_at_most", [0, 2, 1000])
@given(recorded=st.lists(st.tuples(PATHS, st.integers(0, 2)), max_size=12), asked=st.lists(PATHS, max_size=12))
def test_files_are_found_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    skipped_at_most: int,
    recorded: list[tuple[str, int]],
    asked: list[str],
) -> None:
    path = tmp_path_factory.mktemp("record") / "record.db"
    write_record(path, [file(name, size) for name, size in sorted(recorded)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(increment, "SKIPPED_AT_MOST", skipped_at_most)
        record = Record(str(path))
        for name in [*asked, *sorted(asked), *[name for name, _ in recorded]]:
            assert record.contents(name) == {(size, 1) for there, size in recorded if there == name}


def test_a_record_is_replaced(tmp_path: Path) -> None:
    write_record(tmp_path / "new" / "record.db", [file("/in/a")])
    write_record(tmp_path / "new" / "record.db", [file("/in/b"), file("/in/b")])
    record = Record(str(tmp_path / "new" / "record.db"))
    assert (record.contents("/in/a"), record.contents("/in/b")) == (set(), {(1, 1)})


def test_what_is_taken_and_counted(tmp_path: Path) -> None:
    chosen = chooser(tmp_path, file("/in/a"), file("/in/b"), file("/in/b", 2), settle_seconds=60.0)
    young, old, future = (NOW_NS + seconds * SECOND for seconds in (-59, -60, 60))
    assert [
        chosen.takes(each)
        for each in [
            file("/in/a"),
            file("/in/a", mtime_ns=2),
            file("/in/b", 2),
            file("/in/c", mtime_ns=young),
            file("/in/d", mtime_ns=old),
            file("/in/e", mtime_ns=future),
        ]
    ] == [False, True, False, False, True, True]
    assert chosen.increment.to_json() == {"series": "s", "number": 3, "known": 2, "changed": 1, "unsettled": 1}


def test_a_known_file_needs_no_time_to_settle(tmp_path: Path) -> None:
    now = file("/in/a", mtime_ns=NOW_NS)
    chosen = chooser(tmp_path, now, settle_seconds=60.0)
    assert not chosen.takes(now)
    assert (chosen.increment.known, chosen.increment.unsettled) == (1, 0)


def test_changed_files_as_the_spec_says(tmp_path: Path) -> None:
    assert not chooser(tmp_path, file("/in/a"), changed="skip").takes(file("/in/a", 2))
    with pytest.raises(AlreadyScored, match=r"/in/a changed .* 's' scored it"):
        chooser(tmp_path, file("/in/a"), changed="refuse").takes(file("/in/a", 2))


def test_of_a_plan_only_its_own_files_are_looked_at(tmp_path: Path) -> None:
    """Files that came since are for the next job of the series."""
    (tmp_path / "plan").mkdir()
    paths = [tmp_path / name for name in "abc"]
    with planfile.files_table(tmp_path) as table:
        for path in paths:
            path.write_bytes(b"1")
            table.add({"path": str(path), "size_bytes": 1, "mtime_ns": path.stat().st_mtime_ns})
    planfile.write_chunks(tmp_path, [])
    (tmp_path / "new").write_bytes(b"1")
    request = {"staging": str(tmp_path)}
    assert planner.still_planned(request, lambda told: None) == {"changes": []}
    paths[0].write_bytes(b"12")
    paths[1].unlink()
    assert planner.still_planned(request, lambda told: None) == {
        "changes": [f"changed file {paths[0]}", f"missing file {paths[1]}"]
    }


@pytest.mark.parametrize(
    ("mode", "changed", "then"),
    [
        ("append", "auto", "refuse"),
        ("error", "auto", "score"),
        ("append", "skip", "skip"),
        ("append", "score", "score"),
    ],
)
def test_appending_refuses_by_itself(mode: str, changed: str, then: str) -> None:
    words = {"path": "/in", "series": {"name": "s", "changed": changed, "settle": "90s"}}
    spec = JobSpec.model_validate({"model": "m", "input": words, "output": {"path": "/out", "mode": mode}})
    asked = unscored(spec, Path("/record"), 2)
    assert (asked["changed"], asked["settle_seconds"], asked["number"]) == (then, 90.0, 2)
