"""The order of the commit path, as the kernel saw it: synced before renamed, data before manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import checker
from tests.crash.rig import syscalls
from tests.crash.rig.job import SUCCESS, CrashJob, once
from tests.crash.rig.strike import check


@pytest.mark.parametrize("mode", ["error", "overwrite", "append"])
def test_everything_is_durable_before_it_is_visible(
    mode: str, job: CrashJob, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """At each rename that publishes, the content and the names below are synced already; then the name itself."""
    before: tuple[Path, ...] = ()
    if mode != "error":
        older: CrashJob = request.getfixturevalue("older")
        shutil.copytree(older.output.parent, job.output.parent, dirs_exist_ok=True)
        before = older.inputs
    job, log = job.but(mode=mode, sleep=0.0), tmp_path / "strace.log"
    ran = once(job, prefix=(*syscalls.PREFIX, str(log)))
    assert ran.code in SUCCESS, ran
    check(job, before)
    _judge(job, log)


def _judge(job: CrashJob, log: Path) -> None:
    files = syscalls.Files()
    data, manifest = str(job.output), str(checker.manifest_path(job.output))
    rejected = str(checker.rejected_place(job.output))
    order: list[str] = []
    for call in syscalls.read(log):
        source, target = call.paths[-2:] if call.name.startswith("rename") else ("", "")
        if target in (data, rejected, manifest):
            order.append(target)
            assert files.below(source), f"{source} was not made by this job"
            assert not files.not_durable(source), (
                f"published before it was durable: {sorted(files.not_durable(source))[:5]}"
            )
        if target == manifest:
            assert not {data, rejected} & files.pending, "the manifest came before its files' names were durable"
        files.see(call)
    assert order[-1:] == [manifest], order
    assert set(order) == {data, rejected, manifest}
    assert len(order) == 3, f"published more than once: {order}"
    assert not {data, rejected, manifest} & files.pending, "a published name is not durable"


def test_every_part_and_its_name_are_synced(job: CrashJob, tmp_path: Path) -> None:
    """Each part of each chunk is synced once, whole, and its folder afterwards."""
    job, log = job.but(sleep=0.0, scorers=1), tmp_path / "strace.log"
    ran = once(job, prefix=(*syscalls.PREFIX, str(log)))
    assert ran.code in SUCCESS, ran
    synced = [call.fd_path for call in syscalls.read(log) if call.name in ("fsync", "fdatasync")]
    parts = [path for path in synced if "/parts/" in path]
    assert len(parts) >= 25, synced
    assert len(set(parts)) == len(parts), "a part was synced twice: which content was counted?"
    folder = str(Path(parts[0]).parent)
    last_folder_sync = len(synced) - 1 - synced[::-1].index(folder)
    late = [part for part in parts if synced.index(part) > last_folder_sync]
    assert not late, f"their names were never made durable: {late}"
