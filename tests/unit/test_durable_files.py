"""Files that are there after a power cut, and errors that say what to do."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tidemill.domain.errors import OutputUnwritable
from tidemill.durable import files
from tidemill.durable.files import (
    DurableFile,
    make_folder,
    remove_file,
    remove_tree,
    replacing,
    translated,
    unwritable,
    write_file,
)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was synced, in order."""
    found: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_write_file_syncs_the_content_before_the_name_and_the_name_after(tmp_path: Path, synced: list[str]) -> None:
    write_file(tmp_path / "a", b"one")
    write_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert synced == [f".a.{os.getpid()}.tmp", tmp_path.name] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_while_replacing_keeps_the_old_content(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_make_folder_syncs_each_name_that_it_makes(tmp_path: Path, synced: list[str]) -> None:
    make_folder(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    assert synced == [tmp_path.parent.name, tmp_path.name, "a", "b"]
    make_folder(tmp_path / "a/b/c")
    assert synced[4:] == ["b"], "the one who made it may have died before the name was durable"


def test_make_folder_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")
    with pytest.raises(OSError):
        make_folder(tmp_path / "file/deeper")


def test_remove_tree_follows_no_links_and_may_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/a").write_bytes(b"a")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/b").write_bytes(b"b")
    (tmp_path / "tree/link").symlink_to(tmp_path / "keep")
    (tmp_path / "link").symlink_to(tmp_path / "keep")
    for _ in range(2):
        remove_tree(tmp_path / "tree")
        remove_tree(tmp_path / "link")
        remove_file(tmp_path / "nothing")
    assert [path.name for path in tmp_path.rglob("*")] == ["keep", "a"]


@pytest.mark.parametrize(
    "code, word",
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EROFS, "that you may write"),
        (errno.EACCES, "that you may write"),
        (errno.ENOTDIR, "no folder is in the way"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EIO, "Run the same command again"),
    ],
)
def test_remedies(code: int, word: str) -> None:
    error = unwritable("/place/a", OSError(code, os.strerror(code)))
    assert os.strerror(code) in error.message
    assert "/place/a" in error.message
    assert word in str(error.remedy)


def test_translated_names_the_path_and_passes_other_errors(tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritable, match="/place"), translated("/place"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(ZeroDivisionError), translated("/place"):
        raise ZeroDivisionError


class TestDurableFile:
    def test_commit_syncs_and_tells_the_checksum(self, tmp_path: Path, synced: list[str]) -> None:
        file = DurableFile(tmp_path / "a")
        file.write(b"one")
        file.write(memoryview(bytearray(b"two")))
        assert (file.tell(), file.size_bytes, file.writable()) == (6, 6, True)
        assert file.commit() == hashlib.sha256(b"onetwo").hexdigest()
        assert synced == ["a", tmp_path.name]
        assert (tmp_path / "a").read_bytes() == b"onetwo"

    def test_it_never_overwrites(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"mine")
        with pytest.raises(OutputUnwritable, match="File exists"):
            DurableFile(tmp_path / "a")

    def test_a_real_full_device_surfaces(self, tmp_path: Path) -> None:
        file = DurableFile(tmp_path / "a")
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file._fd)
        os.close(full)
        with pytest.raises(OSError, match="No space left"):
            file.write(b"x")
        with pytest.raises(OSError, match="No space left"):
            file.write(b"y")
        with pytest.raises(OutputUnwritable) as caught:
            file.commit()
        assert "Free some space" in str(caught.value.remedy)

    @pytest.mark.parametrize("failing", ["a", "folder"])
    def test_a_failed_sync_surfaces(self, failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "folder").mkdir()
        file = DurableFile(tmp_path / "folder/a")
        file.write(b"x")
        real = os.fsync

        def fsync(fd: int) -> None:
            if Path(os.readlink(f"/proc/self/fd/{fd}")).name == failing:
                raise OSError(errno.EIO, "lost")
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OutputUnwritable, match="lost"):
            file.commit()

    def test_a_file_that_became_shorter_is_noticed(self, tmp_path: Path) -> None:
        file = DurableFile(tmp_path / "a")
        file.write(b"four")
        os.truncate(tmp_path / "a", 2)
        with pytest.raises(OutputUnwritable, match="4 bytes were written but 2 are there"):
            file.commit()

    def test_discard_removes_it_and_later_writes_go_nowhere(self, tmp_path: Path) -> None:
        file = DurableFile(tmp_path / "a")
        file.write(b"x")
        file.discard()
        file.discard()
        assert file.write(b"footer") == 6
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(OutputUnwritable, match="given up"):
            file.commit()


def test_fsync_of_files_and_folders(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "a").write_bytes(b"")
    files.fsync_file(tmp_path / "a")
    files.fsync_folder(tmp_path)
    assert synced == ["a", tmp_path.name]
    with pytest.raises(NotADirectoryError):
        files.fsync_folder(tmp_path / "a")
