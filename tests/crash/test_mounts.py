"""The power cut is a real one: what was not synced is gone, what was is there."""

from __future__ import annotations

import os
from pathlib import Path

from tests.crash.rig import mounts


def test_only_what_was_synced_survives_the_cut(tmp_path: Path) -> None:
    with mounts.disk(tmp_path, 32) as disk:
        _write(disk.path / "synced", sync=True)
        _write(disk.path / "scratch", sync=False)
        _write(disk.path / "before", sync=True)
        os.rename(disk.path / "before", disk.path / "after")
        disk.cut(tmp_path / "cut.img")
        disk.swap(tmp_path / "cut.img")
        left = {path.name: path.stat().st_size for path in disk.path.iterdir() if path.is_file()}
    assert left.get("synced") == 1 << 16
    assert left.get("scratch", 0) == 0
    assert left.get("before") == 1 << 16
    assert "after" not in left


def test_a_full_tmpfs_says_so(tmp_path: Path) -> None:
    with mounts.small(tmp_path / "small", 1 << 16) as place:
        assert _fails(place.path / "big")
        place.resize(1 << 20)
        assert not _fails(place.path / "big")


def _fails(path: Path) -> bool:
    try:
        path.write_bytes(b"x" * (1 << 17))
    except OSError as exc:
        return "No space" in str(exc)
    return False


def _write(path: Path, *, sync: bool) -> None:
    with path.open("wb") as file:
        file.write(b"x" * (1 << 16))
        file.flush()
        if sync:
            os.fsync(file.fileno())
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
