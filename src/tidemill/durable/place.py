"""Putting a staged file or folder at its place so that a crash at any instant can be recognised.

A `Move` is made before anything happens and stored: by its inode numbers a later process tells "not yet"
from "done", so an exchange is never repeated. Inode numbers alone, without the device: device numbers
may change when a machine restarts, and both places lie on one file system by construction.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tidemill.durable.files import fsync_folder, remove_file, replacing
from tidemill.durable.rename import RenameSupport, exchange, rename_noreplace

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


@dataclass(frozen=True, kw_only=True)
class Move:
    """`staged` goes to `target`; what was at the target goes to where `staged` was, or beside it.

    `new` is the inode of what is staged, None if the target is only to be taken away; `old` the inode
    of what was at the target, None if nothing was.
    """

    staged: Path
    target: Path
    new: int | None
    old: int | None

    @property
    def aside(self) -> Path:
        """Where the old one goes on a file system that cannot exchange."""
        return self.staged.with_name(f"{self.staged.name}.replaced")


def inode_of(path: str | os.PathLike[str]) -> int | None:
    """The inode of a name, links not followed; None if it is not there."""
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def plan_move(staged: Path, target: Path) -> Move:
    """The move as things are now, before anything was moved."""
    return Move(staged=staged, target=target, new=inode_of(staged), old=inode_of(target))


def is_done(move: Move) -> bool:
    """Whether the target is as it will be."""
    there = inode_of(move.target)
    return there is None if move.new is None else there == move.new


def has_begun(move: Move) -> bool:
    """Whether `put` changed anything already, done or not."""
    if move.new is not None and inode_of(move.target) == move.new:
        return True
    return move.old is not None and move.old in (inode_of(move.aside), inode_of(move.staged))


def put(move: Move, support: RenameSupport, *, replace: bool) -> None:
    """Make the move, or what is left of it, durably. Safe to repeat.

    Raises FileExistsError if the target holds something that was not there when the move was planned,
    or, without `replace`, anything.
    """
    if not is_done(move):
        there = inode_of(move.target)
        if there is not None and not (replace and there == move.old):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(move.target))
        if move.new is None:
            _take_away(move, support)
        elif there is None:
            rename_noreplace(move.staged, move.target, support)
        else:
            _swap(move, support)
    if move.new is not None and inode_of(move.staged) == move.new:
        # The fallback for files died between link and unlink.
        remove_file(move.staged)
    _sync(move)


def undo(move: Move, support: RenameSupport) -> None:
    """Put back what `put` did, wholly or in part. Safe to repeat; what others put there stays."""
    aside = move.aside if inode_of(move.aside) is not None else move.staged
    if move.new is not None and inode_of(move.target) == move.new:
        if move.old is not None and inode_of(move.staged) == move.old:
            exchange(move.staged, move.target)
        elif inode_of(move.staged) == move.new:
            remove_file(move.target)
        else:
            rename_noreplace(move.target, move.staged, support)
    if move.old is not None and inode_of(aside) == move.old and inode_of(move.target) is None:
        rename_noreplace(aside, move.target, support)
    _sync(move)


def _take_away(move: Move, support: RenameSupport) -> None:
    if inode_of(move.staged) == move.old:
        remove_file(move.target)
    else:
        rename_noreplace(move.target, move.staged, support)


def _swap(move: Move, support: RenameSupport) -> None:
    if support.exchange:
        exchange(move.staged, move.target)
    elif move.target.is_file():
        # A second name for the old file, then a rename over it: no instant without a file.
        if inode_of(move.aside) is None:
            os.link(move.target, move.aside)
        os.rename(move.staged, move.target)
    else:
        os.rename(move.target, move.aside)
        rename_noreplace(move.staged, move.target, support)


def _sync(move: Move) -> None:
    fsync_folder(move.target.parent)
    if move.staged.parent.is_dir():
        fsync_folder(move.staged.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; a durable copy where the file system gives no hard link.

    A `target` that is another file is replaced. The caller syncs the folder.
    """
    if inode_of(target) == inode_of(source):
        return
    remove_file(target)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        with source.open("rb") as old, replacing(target) as new:
            shutil.copyfileobj(old, new, 1 << 20)
