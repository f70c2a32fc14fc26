"""`run --server`: what comes to the output of this machine, and what does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fake_service import JOB, status
from tidemill.cli import afar
from tidemill.cli.progress import ProgressView
from tidemill.cli.summary import Ending
from tidemill.domain.errors import InvalidSpec, OutputBusy, OutputExists, ServiceUnreachable
from tidemill.domain.job import JobState
from tidemill.wire.api import JobStatus, ResultInfo
from tidemill.wire.spec import JobSpec

MANIFEST = {
    "job_id": JOB,
    "output": "/on/the/service/predictions",
    "format": "parquet",
    "mode": "error",
    "counts": {"total": 12, "predicted": 10, "rejected": 2},
    "spec": {"model": "m@1", "output": {"path": "/on/the/service/predictions"}},
    "appended_to": [],
    "files": [{"kind": "predictions", "name": "predictions/part-00000.parquet"}],
}


class Served:
    """A backend whose job ends as it is told."""

    where = "http://mill"

    def __init__(self, ended: dict[str, Any] | None = None, job_id: str = JOB) -> None:
        self.ended = {**(ended or status("succeeded_with_rejections")), "id": job_id}
        self.submitted: list[JobSpec] = []
        self.before_download: Callable[[], None] = lambda: None

    def jobs_submit(self, spec: JobSpec, *, moved: Any = None) -> JobStatus:
        self.submitted.append(spec)
        return JobStatus.model_validate(status(id=self.ended["id"]))

    def jobs_wait(self, job: str, *, tell: Any = None) -> JobStatus:
        return JobStatus.model_validate(self.ended)

    def results_info(self, job: str) -> ResultInfo:
        return ResultInfo(manifest={**MANIFEST, "job_id": job}, downloads={}, rejected_downloads={}, expires_at=None)

    def results_download(self, job: str, path: Path, *, form: str, rejected: bool, moved: Any = None) -> Path:
        self.before_download()
        path.write_bytes(f"{form} {'rejected' if rejected else 'predicted'}".encode())
        return path


def run(backend: Served, output: Path | None, **words: Any) -> Ending:
    spec: dict[str, Any] = {"model": "m@1", "input": {"path": ["x"]}}
    if output is not None:
        spec["output"] = {"path": str(output), **words}
    with ProgressView(quiet=True) as view:
        return afar.run(backend, JobSpec.model_validate(spec), view)  # type: ignore[arg-type]


def test_a_folder_with_its_siblings(tmp_path: Path) -> None:
    backend, out = Served(), tmp_path / "scores"
    ending = run(backend, out)
    assert backend.submitted[0].output is None
    assert sorted(os.listdir(tmp_path)) == ["scores", "scores.manifest.json", "scores.rejected"]
    assert (out / "part-00000.parquet").read_text() == "parquet predicted"
    assert (tmp_path / "scores.rejected" / "part-00000.parquet").read_text() == "parquet rejected"
    manifest = json.loads((tmp_path / "scores.manifest.json").read_text())
    assert manifest == ending.manifest
    assert (manifest["job_id"], manifest["output"], manifest["service"]) == (JOB, str(out), "http://mill")
    assert [(file["name"], file["rows"]) for file in manifest["files"]] == [
        ("scores/part-00000.parquet", 10),
        ("scores.rejected/part-00000.parquet", 2),
    ]
    assert ending.state is JobState.SUCCEEDED_WITH_REJECTIONS


def test_one_file(tmp_path: Path) -> None:
    run(Served(), tmp_path / "scores.csv")
    assert sorted(os.listdir(tmp_path)) == ["scores.csv", "scores.manifest.json", "scores.rejected.csv"]
    assert (tmp_path / "scores.csv").read_text() == "csv predicted"


def test_what_is_there_is_replaced_only_when_asked_and_only_ours(tmp_path: Path) -> None:
    out = tmp_path / "scores"
    run(Served(), out)
    (out / "part-00000.parquet").write_text("old")
    with pytest.raises(OutputExists, match="is there already"):
        run(Served(), out)
    run(Served(job_id="job_another"), out, mode="overwrite")
    assert (out / "part-00000.parquet").read_text() == "parquet predicted"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("precious")
    backend = Served()
    with pytest.raises(OutputExists, match="not published by Tidemill"):
        run(backend, tmp_path / "mine", mode="overwrite")
    assert backend.submitted == [], "nothing was sent"
    assert (tmp_path / "mine" / "x").read_text() == "precious"


@pytest.mark.parametrize(
    "name, words, said",
    [("a", {"mode": "append"}, "not appended"), ("a.csv.gz", {}, "compression"), (None, {}, "preview")],
)
def test_what_a_service_cannot_give_is_refused_first(
    tmp_path: Path, name: str | None, words: dict[str, Any], said: str
) -> None:
    backend = Served()
    with pytest.raises(InvalidSpec, match=said):
        run(backend, tmp_path / name if name else None, **words)
    assert backend.submitted == []


def test_a_download_that_fails_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ServiceUnreachable("Gone.", remedy="Wait.")

    backend = Served()
    backend.before_download = fail
    with pytest.raises(ServiceUnreachable):
        run(backend, tmp_path / "scores")
    assert os.listdir(tmp_path) == []
    assert f"tidemill results download {JOB}" in capsys.readouterr().err, "the result is still there"


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    backend, out = Served(), tmp_path / "scores"

    def another() -> None:
        with pytest.raises(OutputBusy, match=JOB):
            run(Served(), out)

    backend.before_download = another
    run(backend, out)
    assert (out / "part-00000.parquet").read_text() == "parquet predicted"


@pytest.mark.parametrize("state", ["failed", "cancelled", "paused"])
def test_a_job_that_did_not_finish_leaves_nothing(tmp_path: Path, state: str) -> None:
    error = {"code": "too_many_rejected", "message": "450.", "remedy": None} if state == "failed" else None
    ending = run(Served(status(state, error=error)), tmp_path / "scores")
    assert (ending.state, ending.manifest) == (JobState(state), None)
    assert (ending.go_on is None) == (state == "cancelled")
    assert os.listdir(tmp_path) == []
