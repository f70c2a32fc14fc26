"""What a loaded model is known by."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.plan import PlanSummary
from tidemill.domain.signature import Field, ModelInfo
from tidemill.engine.modelkey import load_options, model_key, stamp

INFO = ModelInfo(flavor="lightgbm", inputs=(Field(name="a"), Field(name="b")), outputs=())
PLAN = PlanSummary(
    digest="p",
    snapshot_digest="s",
    files=1,
    chunks=1,
    rows=1,
    input_bytes=1,
    source="parquet",
    model=INFO,
    batch_rows=1,
    predict={"probabilities": True, "threshold": 0.5},
)


def test_all_that_decides_what_is_loaded_is_in_the_key(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.touch()
    model: dict[str, Any] = {"path": str(path), "digest": "d", "flavor": "lightgbm", "trusted": False}
    (tmp_path / "other.txt").touch()
    keys = [
        model_key(model, PLAN, 2),
        model_key(model, PLAN, 1),
        model_key(model, PLAN, 2, ()),
        model_key(model, PLAN, 2, ("0",)),
        model_key({**model, "digest": "e"}, PLAN, 2),
        model_key({**model, "flavor": "python"}, PLAN, 2),
        model_key({**model, "path": str(tmp_path / "other.txt")}, PLAN, 2),
        model_key(model, replace(PLAN, predict={"probabilities": True, "threshold": 0.4}), 2),
        model_key(model, replace(PLAN, model=replace(INFO, inputs=(Field(name="b"), Field(name="a")))), 2),
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_what_belongs_to_the_job_is_not(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.touch()
    model = {"path": str(path), "digest": "d", "flavor": "lightgbm", "trusted": False}
    other = replace(PLAN, digest="q", snapshot_digest="t", rows=9, kept=("id",), output_format="csv")
    assert model_key(model, PLAN, 2) == model_key({**model, "trusted": True}, other, 2)


def test_code_has_no_key(tmp_path: Path) -> None:
    (tmp_path / "own.py").touch()
    assert model_key({"path": f"{tmp_path}/own.py:Own", "digest": "d", "flavor": "python"}, PLAN, 1) is None
    assert model_key({"path": "package.module:Own", "digest": "d", "flavor": "python"}, PLAN, 1) is None


def test_flavor_is_told_the_columns_and_the_threads() -> None:
    told = {"probabilities": True, "threshold": 0.5, "features": ["a", "b"], "threads": 3}
    assert load_options(PLAN, 3) == {**told, "accelerate": False}
    fast = replace(PLAN, acceleration={"kernel": {"name": "trees"}, "why_not": None})
    assert load_options(fast, 3) == {**told, "accelerate": True}


@pytest.mark.parametrize("folder", [False, True])
def test_stamp_changes_with_the_file(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "model"
    file = path / "inner" / "weights" if folder else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("1")
    stamps = [stamp(str(path))]
    assert stamp(str(path)) == stamps[0]
    file.write_text("22")
    stamps.append(stamp(str(path)))
    times = os.stat(file)
    os.replace(_copy(file), file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    stamps.append(stamp(str(path)))
    if folder:
        (path / "more").touch()
        stamps.append(stamp(str(path)))
    assert len(set(stamps)) == len(stamps)


def _copy(file: Path) -> Path:
    other = file.with_name("copy")
    other.write_bytes(file.read_bytes())
    return other


def test_stamp_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        stamp(str(tmp_path / "none"))
