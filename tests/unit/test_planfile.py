"""The plan's files: what was written is read, by number; what was changed is noticed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import Damaged
from tidemill.domain.plan import Chunk, Increment, InputFile, PlanSummary, Segment, Selection
from tidemill.domain.signature import Field, ModelInfo
from tidemill.engine import planfile

FILES = [InputFile(path=f"/in/\u00fc {k}.csv", size_bytes=k, mtime_ns=2**60 + k) for k in range(10_000)]


def segment(number: int, start: int = 0, stop: int = 3) -> Segment:
    return Segment(
        file_number=number, file=FILES[number], row_start=start, row_stop=stop, block_row=0, start=1, stop=2**40
    )


CHUNKS = [
    Chunk(number=0, segments=(segment(0, 5, 9),)),
    *(Chunk(number=k, segments=(segment(k), segment(9_999 - k))) for k in range(1, 200)),
]
SUMMARY = PlanSummary(
    digest="",
    snapshot_digest="s",
    files=10_000,
    chunks=200,
    rows=1_198,
    input_bytes=1,
    source="csv",
    columns=("a", "b"),
    kept=("a",),
    types={"b": "double"},
    model=ModelInfo(
        flavor="python", inputs=(Field(name="b", type="double"),), outputs=(Field(name="p"),), classes=(0, 1)
    ),
    batch_rows=7,
    libraries=(("pyarrow", "26"),),
    warnings=("mind",),
)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "plan").mkdir()
    with planfile.files_table(tmp_path) as table:
        for file in FILES:
            table.add(asdict(file))
    assert planfile.write_chunks(tmp_path, CHUNKS) == 200
    return tmp_path


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"selection": Selection(parent_id="job_1", snapshot_rows=9, first_rows=(0, 4))},
        {"increment": Increment(series="s", number=2, known=3)},
    ],
)
def test_a_summary_is_written_with_all_of_its_fields(more: dict[str, Any]) -> None:
    kinds = (Field(name="b", type="double", accepts=("double",)), Field(name="c", optional=True))
    whole = replace(SUMMARY, model=replace(SUMMARY.model, inputs=kinds), **more)
    assert json.loads(json.dumps(whole.to_json())) == json.loads(json.dumps(asdict(whole)))
    assert PlanSummary.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_all_comes_back(staging: Path) -> None:
    sealed = planfile.write_summary(staging, SUMMARY)
    assert planfile.read_summary(staging, sealed.digest) == sealed == replace(SUMMARY, digest=sealed.digest)
    reader = planfile.PlanReader(staging)
    assert list(reader.files()) == FILES
    for number in (0, 1, 63, 64, 199, 128, 3):
        assert reader.chunk(number) == CHUNKS[number]


def test_the_digest_covers_every_file(staging: Path) -> None:
    sealed = planfile.write_summary(staging, SUMMARY)
    assert planfile.write_summary(staging, replace(SUMMARY, rows=1)).digest != sealed.digest
    planfile.write_summary(staging, SUMMARY)
    for name in (planfile.FILES, planfile.CHUNKS):
        before = (staging / name).read_bytes()
        (staging / name).write_bytes(before[:200] + bytes([before[200] ^ 1]) + before[201:])
        with pytest.raises(Damaged, match="was changed"):
            planfile.read_summary(staging, sealed.digest)
        (staging / name).write_bytes(before)
    assert planfile.read_summary(staging, sealed.digest) == sealed


def test_a_plan_that_is_gone_or_cut_off(staging: Path) -> None:
    sealed = planfile.write_summary(staging, SUMMARY)
    path = staging / planfile.SUMMARY
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(Damaged, match="cannot be read"):
        planfile.read_summary(staging, sealed.digest)
    path.unlink()
    with pytest.raises(Damaged, match="cannot be read"):
        planfile.read_summary(staging, sealed.digest)
