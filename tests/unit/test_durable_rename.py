"""Renames that never overwrite, swaps, and what is done where the file system cannot."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tidemill.durable import rename
from tidemill.durable.place import Move, has_begun, inode_of, is_done, plan_move, put, undo
from tidemill.durable.rename import NO_SUPPORT, RenameSupport, exchange, is_unsupported, probe, rename_noreplace

FULL = RenameSupport(noreplace=True, exchange=True)
BOTH = pytest.mark.parametrize("support", [FULL, NO_SUPPORT], ids=["renames", "fallbacks"])


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "x").write_text(text)
    return path


def text(path: Path) -> str:
    return (path / "x" if path.is_dir() else path).read_text()


def test_this_file_system_knows_both(tmp_path: Path) -> None:
    assert probe(tmp_path) == FULL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_kernel_that_refuses_is_believed(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(rename, "_rename", refuse)
    assert probe(tmp_path) == NO_SUPPORT
    assert is_unsupported(OSError(code, ""))
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rename, "_rename", lambda source, target, flags: os.rename(source, target))
    assert probe(tmp_path) == NO_SUPPORT
    assert list(tmp_path.iterdir()) == []


def test_without_the_call_there_is_no_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rename, "_renameat2", None)
    assert probe(tmp_path) == NO_SUPPORT
    with pytest.raises(OSError) as caught:
        exchange(tmp_path / "a", tmp_path / "b")
    assert is_unsupported(caught.value)


def test_other_errors_of_a_probe_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "missing")


@BOTH
def test_noreplace_moves_files_and_folders(support: RenameSupport, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("F")
    rename_noreplace(tmp_path / "f", tmp_path / "g", support)
    rename_noreplace(folder(tmp_path / "d", "D"), tmp_path / "e", support)
    assert (text(tmp_path / "g"), text(tmp_path / "e")) == ("F", "D")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "g"]


@BOTH
@pytest.mark.parametrize(
    "source, target", [("file", "file"), ("folder", "folder"), ("folder", "file"), ("file", "folder")]
)
def test_noreplace_refuses_a_name_that_is_taken(
    support: RenameSupport, source: str, target: str, tmp_path: Path
) -> None:
    for name, kind, content in (("a", source, "A"), ("b", target, "B")):
        if kind == "folder":
            folder(tmp_path / name, content)
        else:
            (tmp_path / name).write_text(content)
    with pytest.raises(FileExistsError) as caught:
        rename_noreplace(tmp_path / "a", tmp_path / "b", support)
    assert str(tmp_path / "b") in (caught.value.filename, caught.value.filename2)
    assert (text(tmp_path / "a"), text(tmp_path / "b")) == ("A", "B")


def test_exchange_swaps_and_wants_both(tmp_path: Path) -> None:
    exchange(folder(tmp_path / "a", "A"), folder(tmp_path / "b", "B"))
    assert (text(tmp_path / "a"), text(tmp_path / "b")) == ("B", "A")
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "missing")


def setting(place: Path, kind: str, *, new: bool, old: bool) -> Move:
    (place / "staging").mkdir()
    for there, path, content in ((new, place / "staging/n", "new"), (old, place / "t", "old")):
        if there and kind == "folder":
            folder(path, content)
        elif there:
            path.write_text(content)
    return plan_move(place / "staging/n", place / "t")


@BOTH
@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("new, old", [(True, True), (True, False), (False, True), (False, False)])
def test_put_and_undo_can_be_repeated(support: RenameSupport, kind: str, new: bool, old: bool, tmp_path: Path) -> None:
    move = setting(tmp_path, kind, new=new, old=old)
    assert not has_begun(move)
    for _ in range(2):
        put(move, support, replace=True)
        assert is_done(move)
        assert (tmp_path / "t").exists() == new
        assert not new or text(tmp_path / "t") == "new"
        assert has_begun(move) == (new or old)
    for _ in range(2):
        undo(move, support)
        assert (tmp_path / "t").exists() == old
        assert not old or text(tmp_path / "t") == "old"
        assert not new or text(tmp_path / "staging/n") == "new"
    put(move, support, replace=True)
    assert is_done(move)


@BOTH
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_put_without_replace_refuses_what_is_there(support: RenameSupport, kind: str, tmp_path: Path) -> None:
    move = setting(tmp_path, kind, new=True, old=True)
    with pytest.raises(FileExistsError):
        put(move, support, replace=False)
    assert (text(tmp_path / "t"), text(tmp_path / "staging/n")) == ("old", "new")


@BOTH
@pytest.mark.parametrize("new", [True, False])
def test_put_refuses_what_came_after_the_move_was_planned(support: RenameSupport, new: bool, tmp_path: Path) -> None:
    move = setting(tmp_path, "folder", new=new, old=True)
    os.rename(tmp_path / "t", tmp_path / "elsewhere")
    folder(tmp_path / "t", "foreign")
    with pytest.raises(FileExistsError) as caught:
        put(move, support, replace=True)
    assert caught.value.filename == str(tmp_path / "t")
    undo(move, support)
    assert text(tmp_path / "t") == "foreign"


def test_inode_of_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert inode_of(tmp_path / "missing") is None
    assert inode_of(tmp_path / "file/deeper") is None
    assert inode_of(tmp_path / "file") == os.stat(tmp_path / "file").st_ino
