"""Small file systems: a tmpfs that fills up, an ext4 image whose power can be cut."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class NoMount(AssertionError):
    """This suite needs root and mounts: without them it fails, it does not pretend."""


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoMount(f"{' '.join(words)}: {done.stderr.strip()}")


def _unmount(path: Path) -> None:
    """A killed process gives up its memory before its files: for an instant it is gone and they are busy."""
    for _ in range(100):
        if subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    _do("umount", str(path))


@dataclass(frozen=True, kw_only=True)
class Small:
    """A tmpfs of limited size."""

    path: Path

    def resize(self, size_bytes: int) -> None:
        _do("mount", "-o", f"remount,size={size_bytes}", str(self.path))

    def used_bytes(self) -> int:
        return shutil.disk_usage(self.path).used


@contextmanager
def small(path: Path, size_bytes: int) -> Iterator[Small]:
    """A tmpfs at a new folder."""
    path.mkdir(parents=True, exist_ok=True)
    _do("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path))
    try:
        yield Small(path=path)
    finally:
        _do("umount", "-l", str(path))


STRICT = "loop,commit=300,data=writeback,noauto_da_alloc"
"""Only what was fsynced gets to the image: no timely journal commits, no data flushed on the quiet."""


@dataclass
class Disk:
    """An ext4 image, mounted."""

    image: Path
    path: Path

    def cut(self, copy: Path) -> None:
        """Copy what had reached the disk: what the file system still holds in memory is not in the image."""
        subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)

    def swap(self, copy: Path) -> None:
        """Mount another image in this place, as after a power cut."""
        _unmount(self.path)
        self.image = copy
        _do("mount", "-o", STRICT, str(copy), str(self.path))


@contextmanager
def disk(folder: Path, size_mb: int = 96) -> Iterator[Disk]:
    """A fresh ext4 image mounted at folder/disk."""
    folder.mkdir(parents=True, exist_ok=True)
    image, path = folder / "disk.img", folder / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    _do("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    _do("mount", "-o", STRICT, str(image), str(path))
    made = Disk(image=image, path=path)
    try:
        yield made
    finally:
        subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)
