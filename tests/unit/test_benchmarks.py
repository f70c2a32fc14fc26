"""The ruler itself: what it counts, what it takes for the same predictions, what it says was kept or missed."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.__main__ import SCENARIOS, _chosen, _names
from benchmarks.harness import contest, measure, pages, record, table, targets, tree
from benchmarks.harness.checking import difference, predictions
from benchmarks.harness.contest import Part
from benchmarks.harness.contestants import CONTESTANTS, OWN, Contestant, Failed
from benchmarks.harness.environments import Unavailable, python_of
from benchmarks.harness.machine import ENGINES, pinned
from benchmarks.harness.places import PEERS, ROOT
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.workload import Prepared, Workload

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
LEAVE = """
import os, signal, subprocess, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
block = bytearray(40_000_000)
subprocess.run([sys.executable, "-S", "-c", {burn!r}])
if os.fork() == 0:
    os.setsid()
    exec({burn!r})
    os._exit(0)
print("left")
"""


@pytest.fixture(params=["as here", "by descent"])
def _tree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine allows, and what always works."""
    if request.param == "by descent":
        monkeypatch.setattr(measure, "new_tree", tree.Descendants)


@pytest.mark.usefixtures("_tree")
def test_processes_that_nobody_waits_for_are_measured() -> None:
    found = measure.measure([sys.executable, "-S", "-c", LEAVE.format(burn=BURN.format(seconds=0.5))])
    assert found.exit_code == 0 and found.stdout == "left\n"
    # The child that was reaped by nobody lost what it took since the last sample, where there is no group.
    assert found.cpu_seconds > 0.6
    assert found.root_cpu_seconds < 0.5
    assert found.peak_pss_bytes > 40_000_000
    assert found.peak_processes >= 2
    assert 0 <= found.others_share <= 1


@pytest.mark.usefixtures("_tree")
def test_a_warm_command_is_measured_between_its_marks() -> None:
    said = "print('ready', flush=True); input()\n{}print('done', flush=True)\n{}"
    code = BURN.format(seconds=0.3) + said.format(BURN.format(seconds=0.4), BURN.format(seconds=0.6))
    found = measure.measure([sys.executable, "-S", "-c", code], warm=True)
    assert found.exit_code == 0
    assert 0.05 < found.cpu_seconds < 0.25
    assert found.root_cpu_seconds > 0.5


def test_a_warm_command_that_fails_before_its_mark_ends() -> None:
    found = measure.measure([sys.executable, "-S", "-c", "raise SystemExit('no cluster')"], warm=True)
    assert found.exit_code == 1
    assert "no cluster" in found.stderr


@pytest.mark.usefixtures("_tree")
def test_nothing_goes_on_after_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> measure._Clock:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "_between_marks", interrupted)
    code = "import os, time\nwhile True: print(os.getpid(), file=open('pid', 'w'), flush=True); time.sleep(0.05)"
    with pytest.raises(KeyboardInterrupt):
        measure.measure([sys.executable, "-S", "-c", code], warm=True, cwd=tmp_path)
    (tmp_path / "pid").unlink(missing_ok=True)
    time.sleep(0.2)
    assert not (tmp_path / "pid").exists()


@pytest.mark.usefixtures("_tree")
def test_a_command_that_does_not_end_is_killed() -> None:
    found = measure.measure([sys.executable, "-S", "-c", "import time; time.sleep(600)"], limit_seconds=0.5)
    assert found.exit_code == -signal.SIGKILL


def write(folder: Path, ids: list[int], values: list[float | None]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"id": pa.array(ids), "prediction": pa.array(values, pa.float32())}
    pq.write_table(pa.table(columns), folder / f"{ids[0]}.parquet")
    return folder


def test_predictions_are_compared_by_id(tmp_path: Path) -> None:
    write(tmp_path / "a" / "deep", [3, 1], [0.5, None])
    found = predictions(write(tmp_path / "a", [2, 0], [2.0, 1.0]))
    expected = (np.arange(4), np.array([1.0, np.nan, 2.0, 0.5]))
    assert found[0].tolist() == [0, 1, 2, 3]
    assert difference(found, expected) == 0
    spread = np.nanstd(expected[1])
    assert difference((expected[0], expected[1] + [0, 0, 0, 0.1]), expected) == pytest.approx(0.1 / spread)
    assert difference((expected[0], np.ones(4)), expected) == float("inf")


@pytest.mark.parametrize(
    ("ids", "said"), [([0, 1], "gave 2 rows of 3"), ([0, 1, 5], "gave predictions for other ids"), ([], "gave 0 rows")]
)
def test_rows_that_are_missing_or_foreign_are_told(ids: list[int], said: str) -> None:
    expected = (np.arange(3), np.zeros(3))
    with pytest.raises(ValueError, match=said):
        difference((np.array(ids, int), np.zeros(len(ids))), expected)


def test_ids_may_be_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["10", "9"], "prediction": [1.0, 2.0]}), tmp_path / "a.parquet")
    assert [column.tolist() for column in predictions(tmp_path)] == [[9, 10], [2.0, 1.0]]


def test_nothing_is_there_where_nothing_was_written(tmp_path: Path) -> None:
    assert predictions(tmp_path)[0].tolist() == []


def run(wall: float, cpu: float, peak: float = 1e8, **more: Any) -> dict[str, Any]:
    return {
        "wall_seconds": wall, "cpu_seconds": cpu, "peak_pss_bytes": peak, "rows": 1_000, "others_share": 0.1, **more
    }  # fmt: skip


def part(runs: dict[str, list[dict[str, Any]]], **changes: Any) -> Part:
    known = {
        "workload": "W1-lightgbm", "title": "trees", "family": "lightgbm", "small_job": False, "kernel_target": 3.0,
        "rows": 1_000, "rounds": 2, "quick": False, "at": "2026-11-26T12:00:00+00:00", "runs": runs,
    }  # fmt: skip
    return Part(**{**known, **changes})


FLOOR = run(30.0, 60.0, predict_wall_seconds=28.0, predict_cpu_seconds=56.0)
ALONE = run(24.0, 48.0)


def by_name(found: Part) -> dict[str, tuple[float, float | None]]:
    return {verdict.name: (verdict.value, verdict.at_most) for verdict in targets.verdicts(found)}


def test_ratios_are_of_runs_of_the_same_round() -> None:
    one = part({"tidemill": [run(1, 1), run(10, 1)], "pandas": [run(2, 1), run(20, 1)]})
    assert targets.ratio(one, "tidemill", "pandas", "wall_seconds") == 0.5
    assert targets.median(one, "tidemill", "wall_seconds") == 5.5


def test_native_models_are_held_against_the_floor_only_in_long_jobs() -> None:
    long = part({"floor": [FLOOR], "tidemill-library": [run(33.0, 62.0)]})
    assert by_name(long) == {"wall without kernels / floor": (pytest.approx(1.1), 1.1)}
    short = part({"floor": [run(3.0, 6.0)], "tidemill-library": [run(6.0, 7.0)]})
    assert by_name(short) == {"wall without kernels / floor": (2.0, None)}
    python = part({"floor": [FLOOR], "tidemill-library": [run(33.0, 62.0)]}, family="text")
    assert by_name(python)["wall without kernels / floor"][1] is None


def test_kernels_are_held_against_the_better_way_to_predict() -> None:
    found = by_name(part({"tidemill": [run(8.0, 12.0)], "floor": [FLOOR], "predict-alone": [ALONE]}))
    assert found["wall with kernels / library's predict alone"] == (pytest.approx(8 / 24), pytest.approx(1 / 3))
    assert found["CPU with kernels / library's predict alone"] == (pytest.approx(0.25), pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("peer", "kernel_rows", "limits"),
    [
        ("pandas", 0, {"wall": 1 / 1.3, "CPU": 1 / 1.3}),
        ("daft", 0, {"wall": 1 / 1.3, "CPU": 1 / 1.3, "peak memory": 1 / 2}),
        ("ray-actors", 0, {"wall": 1 / 3, "CPU": 1 / 3, "peak memory": 1 / 2}),
        ("spark-arrow-warm", 0, {"wall": 1 / 1.3, "CPU": 1 / 1.3, "peak memory": 1 / 2}),
        ("spark-arrow-warm", 1_000, {"wall": 1 / 3, "CPU": 1 / 3, "peak memory": 1 / 2}),
    ],
)
def test_what_is_promised_against_peers(peer: str, kernel_rows: int, limits: dict[str, float]) -> None:
    found = by_name(part({"tidemill": [run(1, 1, kernel_rows=kernel_rows)], peer: [run(2, 4, 2e8)]}))
    title = CONTESTANTS[peer].title
    ratios = {"wall": 0.5, "CPU": 0.25, "peak memory": 0.5}
    assert found == {f"{what} / {title}": (ratios[what], limit) for what, limit in limits.items()}


def test_the_careful_loop_is_met_without_kernels_and_beaten_with_them() -> None:
    runs = {"tidemill": [run(1, 1, kernel_rows=9)], "tidemill-library": [run(1, 2)], "pyarrow": [run(2, 4)]}
    found = by_name(part(runs))
    assert found["CPU without kernels / careful pyarrow loop"] == (0.5, 1.1)
    assert found["CPU with kernels / careful pyarrow loop"] == (0.25, 1 / 3)
    small = by_name(part(runs, small_job=True, kernel_target=None))
    assert small == {"CPU seconds more than bare Python (the pyarrow loop)": (-3, 1.0)}


def test_scorers_and_kills_are_held_against_ourselves() -> None:
    scaled = by_name(part({"tidemill": [run(1, 1)], "tidemill-1-scorer": [run(1.9, 1)]}))
    assert scaled["wall / one scorer's"] == (pytest.approx(1 / 1.9), 1 / 1.85)
    killed = by_name(part({"tidemill-library": [run(10, 20)], "tidemill-killed": [run(11, 21)]}))
    assert killed["wall killed and resumed / uninterrupted"] == (1.1, 1.05)
    assert killed["CPU killed and resumed / uninterrupted"] == (1.05, 1.05)


MACHINE = {
    "cpu": "a CPU", "cores": 2, "memory_bytes": 2**34, "system": "Linux", "python": "3.11", "libraries": {"numpy": "2"},
    "peers": {"ray": "9"},
}  # fmt: skip


def test_a_missed_target_stays_in_the_table_with_its_reason(tmp_path: Path) -> None:
    kept = record.Record(machine=MACHINE)
    kept.add(part({"tidemill": [run(1, 1)], "pandas": [run(1, 2)]}, failed={"ray-actors": "not available: no wheel"}))
    text = table.whole(kept, {"W1-lightgbm: wall / pandas script": "it has less to start"})
    assert "| wall / pandas script | 1 | 0.769 | missed: it has less to start |" in text
    assert "| CPU / pandas script | 0.5 | 0.769 | kept |" in text
    assert "- Ray Data, actors: not available: no wheel" in text
    assert "| pandas script | 1.00 | 2.00 | 100 | 1,000 | — | 1.00 | 2.00 | 10% |" in text
    assert f"| {WORKLOADS['W1-lightgbm'].title}; 1,000 rows | 1.0 / 2.0 | — |" in text
    assert "2 cores of a CPU, 16 GiB" in text and "ray 9" in text
    path = tmp_path / "day.json"
    record.write(kept, path)
    assert record.read(path) == kept


def test_quick_runs_are_not_judged() -> None:
    kept = record.Record(machine=MACHINE, parts=[part({"tidemill": [run(1, 1)], "pandas": [run(1, 2)]}, quick=True)])
    assert "missed" not in table.whole(kept, {})


def test_parts_of_a_day_make_one_table() -> None:
    kept = record.Record(machine=MACHINE)
    kept.add(part({"tidemill": [run(1, 1)], "pandas": [run(3, 3)]}))
    kept.add(part({"tidemill": [run(2, 2)], "dask": [run(4, 4)]}))
    kept.add(part({"tidemill": [run(1, 1)]}, workload="W4-csv"))
    assert kept.workloads() == ["W1-lightgbm", "W4-csv"]
    text = table.workload(kept, "W1-lightgbm", {})
    # Each against Tidemill's runs of its own rounds.
    assert re.search(r"\| pandas script .* 3\.00 \| 3\.00 \|", text)
    assert re.search(r"\| Dask .* 2\.00 \| 2\.00 \|", text)
    kept.add(part({"tidemill": [run(2, 2)], "dask": [run(8, 8)]}))
    assert len(kept.of("W1-lightgbm")) == 2


def test_a_record_of_another_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "day.json"
    record.write(record.Record(machine=MACHINE), path)
    with pytest.raises(SystemExit, match=r"where cpu, .* differ.* --into"):
        record.opened(path)
    assert record.opened(tmp_path / "other.json").parts == []


def test_pages_are_filled_between_their_marks(tmp_path: Path) -> None:
    path = tmp_path / "day.json"
    kept = record.Record(machine=MACHINE)
    kept.add(part({"tidemill": [run(1, 1)], "pandas": [run(1, 2)]}))
    record.write(kept, path)
    page = "a\n<!-- benchmark: W1-lightgbm -->\nold\n<!-- end -->\nb\n<!-- benchmark: W4-csv -->\n<!-- end -->\n"
    full = pages.filled(page, path)
    assert full.startswith("a\n<!-- benchmark: W1-lightgbm -->\n\n1,000 rows") and "| pandas script |" in full
    assert "old" not in full and full.count("Not measured yet") == 1
    assert pages.filled(full, path) == full
    assert pages.filled(page, None).count("Not measured yet") == 2


def contestant(name: str, score: Callable[..., dict[str, Any]], environment: str = OWN) -> Contestant:
    return Contestant(name=name, title=name, environment=environment, score=score)


def writes(values: list[float]) -> Callable[..., dict[str, Any]]:
    def score(prepared: Prepared, output: Path, runs: object) -> dict[str, Any]:
        write(output, [0, 1, 2], values)
        return run(1, 1)

    return score


def fails(*_: object) -> dict[str, Any]:
    raise Failed("ended with 3: out of memory")


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Part]:
    """A contest of made-up contestants."""

    def hold(*fit: Contestant, rounds: int = 3) -> Part:
        monkeypatch.setattr(contest, "CONTESTANTS", {each.name: each for each in fit})
        monkeypatch.setattr(contest, "empty_output", lambda: tmp_path / "scores")
        work = Workload(
            name="W0", title="", rows=3, quick_rows=3, tolerance=1e-6, contestants=(), family="text",
            make=lambda rows: Prepared(model=tmp_path, source=tmp_path, small=tmp_path),
        )  # fmt: skip
        names = [each.name for each in fit]
        return contest.hold(work, names, rows=3, rounds=rounds, quick=True, make=False)

    return hold


def test_peers_that_fail_or_are_wrong_have_a_reason_and_no_figures(field: Callable[..., Part]) -> None:
    found = field(
        contestant("floor", writes([1.0, 2.0, 3.0])),
        contestant("right", writes([1.0, 2.0, 3.0])),
        contestant("wrong", writes([1.0, 2.0, 3.1])),
        contestant("broken", fails),
        contestant("nowhere", writes([1.0, 2.0, 3.0]), environment="pandas"),
        rounds=2,
    )
    assert {name: len(runs) for name, runs in found.runs.items()} == {"floor": 2, "right": 2}
    assert found.failed["wrong"].startswith("gave other predictions: they differ by 0.12")
    assert found.failed["broken"] == "ended with 3: out of memory"
    assert found.failed["nowhere"].startswith("not available")


def test_a_wrong_result_of_our_own_fails_the_benchmark(field: Callable[..., Part]) -> None:
    with pytest.raises(SystemExit, match="gave other predictions"):
        field(contestant("floor", writes([1.0, 2.0, 3.0])), contestant("tidemill", writes([1.0, 2.0, 4.0])))


def test_who_is_next_to_whom_changes(field: Callable[..., Part]) -> None:
    order = []

    def noting(name: str) -> Callable[..., dict[str, Any]]:
        def score(prepared: Prepared, output: Path, runs: object) -> dict[str, Any]:
            order.append(name)
            return writes([1.0, 2.0, 3.0])(prepared, output, runs)

        return score

    field(*(contestant(name, noting(name)) for name in ("floor", "b", "c")))
    assert order == ["floor", "b", "c", "b", "c", "floor", "c", "floor", "b"]


@pytest.fixture(autouse=True)
def _no_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine that never ran a benchmark."""
    monkeypatch.setattr("benchmarks.harness.environments.FOLDER", tmp_path / "none")
    python_of.cache_clear()


def test_environments_are_not_made_in_quick_runs() -> None:
    with pytest.raises(Unavailable, match="--make --contestants ray"):
        python_of("ray", make=False)


def test_parts_are_chosen_by_name_or_its_beginning() -> None:
    assert _chosen(["W1", "memory"], quick=False) == ["W1-lightgbm", "W1-xgboost", "memory"]
    assert _chosen([], quick=False) == [*WORKLOADS, *SCENARIOS]
    with pytest.raises(SystemExit, match="There is no W9"):
        _chosen(["W9"], quick=False)
    first = WORKLOADS["W1-lightgbm"]
    always = ["floor", "predict-alone", "tidemill", "tidemill-library"]
    assert _names(first, ["spark-udf", "daft"], quick=False) == [*always, "daft", "spark-udf"]
    assert _names(WORKLOADS["W3-network"], ["spark"], quick=False) == [*always, "spark-arrow", "spark-arrow-warm"]
    assert _names(WORKLOADS["W8-killed"], ["tidemill-killed"], quick=False) == [
        "floor", "tidemill-library", "tidemill-killed"
    ]  # fmt: skip


def test_every_workload_names_contestants_that_there_are() -> None:
    for workload in WORKLOADS.values():
        assert set(workload.contestants) <= set(CONTESTANTS)
        assert workload.contestants[0] == contest.REFERENCE
        assert workload.rounds >= 3


def test_every_engine_pins_its_environment_and_is_explained() -> None:
    engines = {each.environment for each in CONTESTANTS.values()} - {OWN}
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    for engine in engines:
        lines = (PEERS / engine / "requirements.txt").read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if not line.startswith("#")]
        assert lines[0] == "-r ../shared/libraries.txt"
        assert [line for line in lines[1:] if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.+!]*", line)] == []
        (script,) = (PEERS / engine).glob("*.py")
        assert f"`peers/{engine}/{script.name}`" in page
    assert all(pinned(engine, name) for engine, name in ENGINES.items())


def test_the_page_has_a_place_for_every_workload() -> None:
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- benchmark: ([\w-]+) -->", page)) == {*WORKLOADS, "machine", "glance"}


@pytest.mark.parametrize("path", pages.PAGES, ids=lambda path: path.name)
def test_figures_in_pages_are_those_of_the_newest_record(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert pages.filled(text, record.newest()) == text, "python -m benchmarks --docs"


def test_reasons_are_of_targets_that_there_are() -> None:
    assert {key.partition(":")[0] for key in targets.reasons()} <= set(WORKLOADS)
