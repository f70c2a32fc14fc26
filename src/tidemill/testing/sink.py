"""What every sink must do: subclass `SinkContract`, say how to make one and how to read what it published."""

from __future__ import annotations

import hashlib
import socket
import threading
from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.errors import Damaged, LeaseLost, OutputBusy, OutputExists, OutputUnwritable
from tidemill.domain.receipt import Part, PartKind
from tidemill.durable.locks import FileLock
from tidemill.ports.sink import Claim, Sink, StagedFile

JOB = "job_1"
OTHER = "job_2"


def stage_part(sink: Sink, job_id: str, chunk: int, kind: PartKind, rows: int, data: bytes) -> Part:
    """Write a part as a scorer would; its content need not be of any format."""
    name = f"parts/{chunk:07d}.a1.{kind}.bin"
    (Path(sink.staging(job_id)) / name).write_bytes(data)
    return Part(kind=kind, name=name, rows=rows, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def manifest_of(job_id: str, files: list[StagedFile]) -> dict[str, Any]:
    """The least that a sink may count on to find in a manifest."""
    return {"job_id": job_id, "files": [asdict(file) for file in files]}


def publish(sink: Sink, job_id: str, files: list[StagedFile]) -> None:
    """Journal and publish in one go, by a worker that holds its lease."""
    sink.publish(job_id, manifest_of(job_id, files), sink.journal(job_id), lambda: True)


class SinkContract(ABC):
    """Tests that a sink of folders passes. Part files end in ".bin"."""

    @abstractmethod
    def make(self, place: Path, mode: str) -> Sink:
        """A sink whose output and everything beside it lies in `place` or belongs to it alone."""

    @abstractmethod
    def read(self, place: Path) -> dict[str, bytes]:
        """Every published file by its `StagedFile.name`, without the manifest."""

    @abstractmethod
    def leftovers(self, place: Path) -> list[str]:
        """Names of staging, claims and locks that are there."""

    def claim(self, place: Path, job_id: str = JOB, pid: int = 1) -> Claim:
        return Claim(
            job_id=job_id,
            store="store",
            host=socket.gethostname(),
            pid=pid,
            worker_lock=str(place / f"worker-{job_id}-{pid}.lock"),
            output="out",
            started_at="2026-01-01T00:00:00Z",
        )

    def run(self, place: Path, job_id: str, mode: str, predictions: list[bytes], rejected: list[bytes]) -> Sink:
        """A whole job: prepared, assembled, published, finished."""
        sink = self.make(place, mode)
        sink.prepare(self.claim(place, job_id), replace=None)
        publish(sink, job_id, self.assemble(sink, job_id, predictions, rejected))
        sink.finish(job_id)
        return sink

    def assemble(self, sink: Sink, job_id: str, predictions: list[bytes], rejected: list[bytes]) -> list[StagedFile]:
        """Parts with as many rows as their content has bytes."""
        parts = []
        for chunk, data in enumerate(predictions):
            parts.append((chunk, stage_part(sink, job_id, chunk, "predictions", len(data), data)))
            if chunk < len(rejected):
                gone = rejected[chunk]
                parts.append((chunk, stage_part(sink, job_id, chunk, "rejected", len(gone), gone)))
        return sink.assemble(job_id, parts)

    # -- claims

    def test_a_fresh_place_is_free(self, tmp_path: Path) -> None:
        state = self.make(tmp_path, "error").look()
        assert (state.occupied, state.manifest, state.claim, state.claim_live) == (False, None, None, False)

    def test_prepare_takes_the_output_and_can_be_repeated(self, tmp_path: Path) -> None:
        claim = self.claim(tmp_path)
        for _ in range(2):
            sink = self.make(tmp_path, "error")
            sink.prepare(claim, replace=None)
            assert self.make(tmp_path, "error").look().claim == claim
        assert {path.name for path in Path(sink.staging(JOB)).iterdir()} == {"plan", "spool", "parts", "out"}
        assert self.read(tmp_path) == {}

    def test_says_whether_it_holds_anything_of_a_job(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        assert not sink.holds(JOB)
        sink.prepare(self.claim(tmp_path), replace=None)
        assert (sink.holds(JOB), sink.holds(OTHER)) == (True, False)
        sink.discard(JOB)
        assert not sink.holds(JOB)
        self.run(tmp_path, OTHER, "error", [b"new"], [])
        assert not sink.holds(OTHER)

    def test_who_assembles_after_the_end_leaves_nothing(self, tmp_path: Path) -> None:
        """A worker that was frozen and does not know that its successor has ended the job."""
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        part = stage_part(sink, JOB, 0, "predictions", 3, b"new")
        publish(sink, JOB, sink.assemble(JOB, [(0, part)]))
        sink.finish(JOB)
        before = self.read(tmp_path)
        with pytest.raises(OutputUnwritable):
            self.make(tmp_path, "error").assemble(JOB, [(0, part)])
        assert not sink.holds(JOB)
        assert self.read(tmp_path) == before

    def test_a_second_job_is_refused_naming_the_holder(self, tmp_path: Path) -> None:
        self.make(tmp_path, "error").prepare(self.claim(tmp_path), replace=None)
        with pytest.raises(OutputBusy, match=JOB):
            self.make(tmp_path, "error").prepare(self.claim(tmp_path, OTHER), replace=None)
        state = self.make(tmp_path, "error").look()
        assert state.claim is not None
        assert state.claim.job_id == JOB

    def test_one_of_many_wins(self, tmp_path: Path) -> None:
        barrier = threading.Barrier(8)
        won: list[str] = []
        lost: list[str] = []

        def race(job_id: str) -> None:
            sink = self.make(tmp_path, "error")
            barrier.wait()
            try:
                sink.prepare(self.claim(tmp_path, job_id), replace=None)
                won.append(job_id)
            except OutputBusy:
                lost.append(job_id)

        threads = [threading.Thread(target=race, args=(f"job_{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 7), f"{len(won)} won and {len(lost)} were told so"
        state = self.make(tmp_path, "error").look()
        assert state.claim is not None
        assert state.claim.job_id == won[0]

    def test_a_claim_is_live_while_its_worker_is(self, tmp_path: Path) -> None:
        claim = self.claim(tmp_path)
        sink = self.make(tmp_path, "error")
        sink.prepare(claim, replace=None)
        assert not sink.look().claim_live
        with FileLock(claim.worker_lock) as lock:
            assert lock.try_lock()
            assert sink.look().claim_live
            with pytest.raises(OutputBusy, match=JOB):
                sink.prepare(self.claim(tmp_path, OTHER), replace=claim)
        sink.prepare(self.claim(tmp_path, OTHER), replace=claim)
        found = sink.look().claim
        assert found is not None
        assert found.job_id == OTHER

    def test_a_claim_elsewhere_counts_as_live(self, tmp_path: Path) -> None:
        claim = replace(self.claim(tmp_path), host="another-host")
        sink = self.make(tmp_path, "error")
        sink.prepare(claim, replace=None)
        assert sink.look().claim_live

    def test_a_job_goes_on_in_another_process_with_its_parts(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        stage_part(sink, JOB, 0, "predictions", 1, b"a")
        heir = self.make(tmp_path, "error")
        heir.prepare(self.claim(tmp_path, pid=2), replace=self.claim(tmp_path))
        assert (Path(heir.staging(JOB)) / "parts/0000000.a1.predictions.bin").read_bytes() == b"a"

    def test_taking_over_needs_the_claim_that_is_there(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path, pid=2), replace=None)
        with pytest.raises(OutputBusy):
            sink.prepare(self.claim(tmp_path, pid=3), replace=self.claim(tmp_path, pid=1))

    def test_who_takes_over_a_dead_job_removes_what_it_left(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        stage_part(sink, JOB, 0, "predictions", 1, b"a")
        sink.prepare(self.claim(tmp_path, OTHER), replace=self.claim(tmp_path))
        assert not Path(sink.staging(JOB)).exists()
        assert Path(sink.staging(OTHER)).is_dir()

    # -- parts

    def test_sweep_keeps_what_it_is_told(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        kept = stage_part(sink, JOB, 0, "predictions", 1, b"a")
        stage_part(sink, JOB, 1, "predictions", 1, b"b")
        sink.sweep(JOB, lambda name: name == kept.name)
        assert [path.name for path in (Path(sink.staging(JOB)) / "parts").iterdir()] == [Path(kept.name).name]

    def test_parts_are_numbered_in_order_without_the_empty_ones(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        files = self.assemble(sink, JOB, [b"a", b"", b"ccc"], [b"", b"x", b"yy"])
        told = [(file.kind, Path(file.name).name, file.rows, file.size_bytes) for file in files]
        assert told == [
            ("predictions", "part-00000.bin", 1, 1),
            ("predictions", "part-00001.bin", 3, 3),
            ("rejected", "part-00000.bin", 1, 1),
            ("rejected", "part-00001.bin", 2, 2),
        ]
        assert [file.sha256 for file in files] == [
            hashlib.sha256(data).hexdigest() for data in (b"a", b"ccc", b"x", b"yy")
        ]
        assert self.read(tmp_path) == {}

    def test_no_rows_at_all_leave_one_readable_part(self, tmp_path: Path) -> None:
        self.run(tmp_path, JOB, "error", [b"", b""], [b"", b""])
        assert [Path(name).name for name in self.read(tmp_path)] == ["part-00000.bin"]

    def test_assemble_can_be_repeated(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        parts = [(n, stage_part(sink, JOB, n, "predictions", 1, b"%d" % n)) for n in range(3)]
        first = sink.assemble(JOB, parts)
        again = self.make(tmp_path, "error")
        assert again.assemble(JOB, parts) == first
        publish(again, JOB, first)
        assert [self.read(tmp_path)[file.name] for file in first] == [b"0", b"1", b"2"]

    # -- publishing

    def test_publish_shows_everything_at_once(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        files = self.assemble(sink, JOB, [b"a", b"bb"], [b"", b"r"])
        assert sink.published(JOB) is None
        assert self.read(tmp_path) == {}
        publish(sink, JOB, files)
        assert sink.published(JOB) == manifest_of(JOB, files)
        assert self.read(tmp_path) == dict(zip([file.name for file in files], [b"a", b"bb", b"r"], strict=True))
        state = sink.look()
        assert (state.occupied, state.manifest) == (True, manifest_of(JOB, files))

    def test_publish_can_be_repeated(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        files = self.assemble(sink, JOB, [b"a"], [])
        journal = sink.journal(JOB)
        for _ in range(2):
            self.make(tmp_path, "error").publish(JOB, manifest_of(JOB, files), journal, lambda: True)
        assert self.read(tmp_path) == {files[0].name: b"a"}

    def test_who_lost_the_lease_publishes_nothing(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        files = self.assemble(sink, JOB, [b"a"], [])
        with pytest.raises(LeaseLost):
            sink.publish(JOB, manifest_of(JOB, files), sink.journal(JOB), lambda: False)
        assert (self.read(tmp_path), sink.published(JOB)) == ({}, None)

    def test_a_file_that_is_gone_or_short_is_not_published(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        files = self.assemble(sink, JOB, [b"a", b"bb"], [])
        sink.publish(JOB, manifest_of(JOB, [*files, replace(files[0], size_bytes=9)]), sink.journal(JOB), lambda: True)
        assert sink.published(JOB) is None
        assert sink.published(OTHER) is None

    def test_an_output_that_is_there_is_refused(self, tmp_path: Path) -> None:
        self.run(tmp_path, JOB, "error", [b"a"], [])
        before = self.read(tmp_path)
        with pytest.raises(OutputExists) as caught:
            self.make(tmp_path, "error").prepare(self.claim(tmp_path, OTHER), replace=None)
        assert "--mode overwrite" in str(caught.value.remedy)
        assert (self.read(tmp_path), self.leftovers(tmp_path)) == (before, [])

    def test_overwrite_replaces_predictions_and_rejected_rows(self, tmp_path: Path) -> None:
        self.run(tmp_path, JOB, "error", [b"a", b"b", b"c"], [b"r"])
        sink = self.run(tmp_path, OTHER, "overwrite", [b"new"], [])
        manifest = sink.published(OTHER)
        assert manifest is not None
        assert self.read(tmp_path) == {manifest["files"][0]["name"]: b"new"}
        assert self.leftovers(tmp_path) == []

    def test_overwrite_of_nothing_publishes(self, tmp_path: Path) -> None:
        sink = self.run(tmp_path, JOB, "overwrite", [b"a"], [b"r"])
        assert sink.published(JOB) is not None
        assert sorted(self.read(tmp_path).values()) == [b"a", b"r"]

    def test_append_keeps_what_is_there_and_numbers_on(self, tmp_path: Path) -> None:
        self.run(tmp_path, JOB, "append", [b"a", b"b"], [b"r"])
        sink = self.run(tmp_path, OTHER, "append", [b"ccc"], [b"ss"])
        manifest = sink.published(OTHER)
        assert manifest is not None
        told = [(entry["kind"], Path(entry["name"]).name, entry["rows"]) for entry in manifest["files"]]
        assert told == [
            ("predictions", "part-00000.bin", 1),
            ("predictions", "part-00001.bin", 1),
            ("predictions", "part-00002.bin", 3),
            ("rejected", "part-00000.bin", 1),
            ("rejected", "part-00001.bin", 2),
        ]
        found = self.read(tmp_path)
        assert [found[entry["name"]] for entry in manifest["files"]] == [b"a", b"b", b"ccc", b"r", b"ss"]
        assert len(found) == 5
        assert self.leftovers(tmp_path) == []

    def test_append_without_new_rejected_rows_keeps_the_old_ones(self, tmp_path: Path) -> None:
        self.run(tmp_path, JOB, "error", [b"a"], [b"r"])
        self.run(tmp_path, OTHER, "append", [b"b"], [])
        assert sorted(self.read(tmp_path).values()) == [b"a", b"b", b"r"]

    # -- the end

    def test_finish_leaves_the_output_alone(self, tmp_path: Path) -> None:
        sink = self.run(tmp_path, JOB, "error", [b"a"], [])
        sink.finish(JOB)
        assert sink.published(JOB) is not None
        assert self.leftovers(tmp_path) == []

    def test_discard_leaves_nothing(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        self.assemble(sink, JOB, [b"a"], [])
        for _ in range(2):
            sink.discard(JOB)
            assert (self.read(tmp_path), self.leftovers(tmp_path)) == ({}, [])
        sink.prepare(self.claim(tmp_path, OTHER), replace=None)

    def test_only_the_holder_cleans_up(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        part = stage_part(sink, JOB, 0, "predictions", 1, b"a")
        sink.discard(OTHER)
        sink.finish(OTHER)
        assert (Path(sink.staging(JOB)) / part.name).read_bytes() == b"a"
        found = sink.look().claim
        assert found is not None
        assert found.job_id == JOB

    def test_discard_of_a_published_job_keeps_its_output(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, "error")
        sink.prepare(self.claim(tmp_path), replace=None)
        publish(sink, JOB, self.assemble(sink, JOB, [b"a"], []))
        sink.discard(JOB)
        assert list(self.read(tmp_path).values()) == [b"a"]
        assert sink.published(JOB) is not None

    def test_append_to_what_no_manifest_describes_is_refused(self, tmp_path: Path) -> None:
        sink = self.run(tmp_path, JOB, "error", [b"a", b"b"], [])
        manifest = sink.published(JOB)
        assert manifest is not None
        self.damage(tmp_path, manifest["files"][1]["name"])
        with pytest.raises(Damaged, match="part-00001"):
            self.make(tmp_path, "append").prepare(self.claim(tmp_path, OTHER), replace=None)

    @abstractmethod
    def damage(self, place: Path, name: str) -> None:
        """Make a published file shorter or remove it."""
