"""Jobs of a series in a service: every file once, by a job that succeeded; changed files again."""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.integration.series.lake import ROWS, WHO, Lake, ended, scores, submit, working
from tidemill.domain.errors import AlreadyScored, NothingNew, SeriesBusy
from tidemill.domain.job import JobState
from tidemill.service import control, series, submission
from tidemill.sinks.local import LocalSink


def test_every_file_is_scored_once_by_a_job_that_succeeded(lake: Lake, store: str | None) -> None:
    """Files added, changed and removed between jobs; a job that failed; one job again."""
    refuse = lake.folder / "refuse"
    options = {"predict": {"options": {"refuse": str(refuse)}}}
    lake.write("a.parquet")
    lake.write("b.parquet")
    with working(lake, store) as context:
        first = scores(context, lake.spec("out-1", **options))
        assert first.plan is not None
        assert (first.plan["files"], first.plan["increment"]["known"]) == (2, 0)
        with pytest.raises(NothingNew, match="files scored before: 2"):
            submit(context, lake.spec("out-2", **options))
        (lake.input / "a.parquet").unlink()
        lake.write("b.parquet", 2)
        lake.write("c.parquet")
        second = scores(context, lake.spec("out-2", **options))
        assert second.plan is not None
        assert second.plan["increment"] == {"series": "lake", "number": 2, "known": 0, "changed": 1, "unsettled": 0}
        refuse.touch()
        lake.write("d.parquet")
        failed = ended(context, submit(context, lake.spec("out-3", **options)))
        assert failed.state is JobState.FAILED
        refuse.unlink()
        lake.write("e.parquet")
        lake.write("a.parquet", 2)
        scores(context, lake.spec("out-4", **options))
        with pytest.raises(NothingNew):
            submit(context, lake.spec("out-5", **options))
        found = series.get(context, WHO, "lake")
        assert (found.jobs, found.files, found.holder) == (3, 5, None)
    editions = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 1)]
    times = lake.scored("out-1", "out-2", "out-4")
    assert times == {(f"{name}.parquet", edition): 1 for name, edition in editions}
    assert not (lake.folder / "out-3").exists()


def test_appending_never_has_a_file_twice_unless_asked(lake: Lake, store: str | None) -> None:
    lake.write("a.parquet")
    lake.write("b.parquet")
    with working(lake, store) as context:
        scores(context, lake.spec("all", mode="append"))
        lake.write("c.parquet")
        scores(context, lake.spec("all", mode="append"))
        lake.write("b.parquet", 2)
        lake.write("d.parquet")
        with pytest.raises(AlreadyScored, match=r"b\.parquet changed after a job of the series 'lake' scored it"):
            submit(context, lake.spec("all", mode="append"))
        scores(context, lake.spec("all", mode="append", series={"changed": "skip"}))
        assert lake.scored("all") == {(f"{name}.parquet", 1): 1 for name in "abcd"}
        with pytest.raises(NothingNew):
            submit(context, lake.spec("all", mode="append", series={"changed": "skip"}))
        scores(context, lake.spec("all", mode="append", series={"changed": "score"}))
    assert lake.scored("all") == {**{(f"{name}.parquet", 1): 1 for name in "abcd"}, ("b.parquet", 2): 1}


def test_an_output_is_free_as_soon_as_its_job_has_ended(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though who wrote it has not come to give it up yet."""
    finish, asked = LocalSink.finish, list[str]()

    def later(self: LocalSink, job_id: str) -> None:
        asked.append(job_id)
        if len(asked) > 1:
            finish(self, job_id)

    monkeypatch.setattr(LocalSink, "finish", later)
    lake.write("a.parquet")
    with working(lake, None) as context:
        first = scores(context, lake.spec("all", mode="append"))
        assert claims_of(lake) == [first.id]
        lake.write("b.parquet")
        scores(context, lake.spec("all", mode="append"))
    assert claims_of(lake) == []
    assert lake.scored("all") == {("a.parquet", 1): 1, ("b.parquet", 1): 1}


def claims_of(lake: Lake) -> list[str]:
    return [json.loads(path.read_bytes())["job_id"] for path in lake.folder.glob(".all.tidemill.claim")]


def test_a_job_that_was_overtaken_scores_nothing(lake: Lake) -> None:
    """One that failed, was overtaken by a later job, and is resumed all the same."""
    refuse = lake.folder / "refuse"
    options = {"predict": {"options": {"refuse": str(refuse)}}}
    refuse.touch()
    lake.write("a.parquet")
    with working(lake, None) as context:
        failed = ended(context, submit(context, lake.spec("out-1", **options)))
        refuse.unlink()
        scores(context, lake.spec("out-2", **options))
        control.resume(context, WHO, failed.id)
        again = ended(context, failed)
        assert (again.state, (again.error or {})["code"]) == (JobState.FAILED, "already_scored")
        assert f"jobs cancel {failed.id}" in (again.error or {})["remedy"]
    assert lake.scored("out-1", "out-2") == {("a.parquet", 1): 1}


def test_a_failed_job_goes_on_if_nobody_overtook_it(lake: Lake) -> None:
    refuse = lake.folder / "refuse"
    options = {"predict": {"options": {"refuse": str(refuse)}}, "limits": {"rejected": 0}}
    refuse.touch()
    lake.write("a.parquet")
    with working(lake, None) as context:
        failed = ended(context, submit(context, lake.spec("out-1", **options)))
        refuse.unlink()
        lake.write("b.parquet")
        control.resume(context, WHO, failed.id)
        assert ended(context, failed).state is JobState.SUCCEEDED
        assert lake.scored("out-1") == {("a.parquet", 1): 1}
        scores(context, lake.spec("out-2", **options))
    assert lake.scored("out-1", "out-2") == {("a.parquet", 1): 1, ("b.parquet", 1): 1}


def test_one_job_at_a_time(lake: Lake) -> None:
    gate = lake.folder / "gate"
    options = {"predict": {"options": {"gate": str(gate)}}}
    lake.write("a.parquet")
    with working(lake, None) as context:
        running = submit(context, lake.spec("out-1", **options))
        lake.write("b.parquet")
        with pytest.raises(SeriesBusy, match=running.id):
            submit(context, lake.spec("out-2", **options))
        control.cancel(context, WHO, running.id)
        assert ended(context, running).state is JobState.CANCELLED
        gate.touch()
        scores(context, lake.spec("out-2", **options))
    assert lake.scored("out-2") == {("a.parquet", 1): 1, ("b.parquet", 1): 1}


def test_rejected_rows_of_a_job_of_a_series_are_scored_again(lake: Lake) -> None:
    mended = lake.folder / "mended"
    options = {"predict": {"options": {"negative": str(mended)}}, "limits": {"rejected": "none"}}
    lake.write("a.parquet")
    with working(lake, None) as context:
        scores(context, lake.spec("out-1", **options))
        lake.write("b.parquet")
        lake.write("c.parquet", value=-1.0)
        rejecting = scores(context, lake.spec("out-2", **options))
        assert (rejecting.counts.predicted, rejecting.counts.rejected) == (ROWS, ROWS)
        mended.touch()
        lake.write("d.parquet")
        retried, _ = submission.retry(context, WHO, rejecting.id)
        again = ended(context, retried)
        assert again.error is None
        assert (again.counts.total, again.counts.predicted) == (ROWS, ROWS)
        scores(context, lake.spec("out-3", **options))
    assert lake.scored("out-3") == {("d.parquet", 1): 1}


def test_files_written_to_just_now_are_left_for_the_next_job(lake: Lake) -> None:
    rested = {"series": {"settle": "1h"}}
    long_ago = time.time() - 7200
    lake.write("old.parquet", at=long_ago)
    lake.write("young.parquet")
    lake.write("future.parquet", at=time.time() + 7200)
    with working(lake, None) as context:
        job = scores(context, lake.spec("out-1", **rested))
        assert job.plan is not None
        assert (job.plan["files"], job.plan["increment"]["unsettled"]) == (2, 1)
        with pytest.raises(NothingNew, match="scored before: 2, written to just now: 1"):
            submit(context, lake.spec("out-2", **rested))
        os.utime(lake.input / "young.parquet", (long_ago, long_ago))
        scores(context, lake.spec("out-2", **rested))
    assert lake.scored("out-1") == {("old.parquet", 1): 1, ("future.parquet", 1): 1}
    assert lake.scored("out-2") == {("young.parquet", 1): 1}


def test_forgotten_files_are_scored_again(lake: Lake) -> None:
    lake.write("a.parquet")
    lake.write("day-1/b.parquet")
    lake.write("day-1/c.parquet")
    with working(lake, None) as context:
        scores(context, lake.spec("out-1"))
        assert series.forget(context, WHO, "lake", below=str(lake.input / "day-1") + "/") == 2
        scores(context, lake.spec("out-2"))
        assert lake.scored("out-2") == {("day-1/b.parquet", 1): 1, ("day-1/c.parquet", 1): 1}
        assert [file.path for file in series.list_files(context, WHO, "lake", limit=1).items] == [
            str(lake.input / "a.parquet")
        ]
        assert series.forget(context, WHO, "lake", below="/") == 3
        scores(context, lake.spec("out-3"))
    assert len(lake.scored("out-3")) == 3
