"""The bytes of registered models: where they lie, how they come in, what is left of failures.

    <models>/.incoming/<id>/<name>          on its way in, beside a lock that its process holds
    <models>/<digest[:2]>/<digest>/<name>   registered, or a copy that jobs score with; never changed

A folder gets its last name by one rename of synced bytes, so what has such a name is whole.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.domain.errors import InvalidSpec, ModelUnusable, NotFound, OutputBusy, TooLarge
from tidemill.domain.ids import new_id
from tidemill.durable.files import DurableFile, fsync_folder, make_folder, remove_tree, translated
from tidemill.durable.locks import FileLock

INCOMING = ".incoming"
LOCKS = ".locks"
MAX_FILES = 10_000
"""Of a model that is a folder."""
MAX_NAME_BYTES = 200
PIECE_BYTES = 1 << 20
LOCK_SECONDS = 60.0

_UNSAFE = re.compile(r"[^\w.\- ]")

Allowed = Callable[[Path], bool]
OfJobs = Callable[[Collection[str]], Collection[str]]
"""Of these digests, those of models that stored jobs score with."""


class Arrival:
    """A model on its way in. Nobody sees it, and with its process it becomes rubbish to sweep."""

    def __init__(self, folder: Path, name: str, max_bytes: int) -> None:
        self.folder = folder
        self.path = folder / safe_name(name)
        self.max_bytes = max_bytes
        self._size = 0
        self._file: DurableFile | None = None

    def write(self, data: bytes) -> None:
        """Add bytes to a model that is one file. Raises TooLarge, OutputUnwritable."""
        if self._file is None:
            self._file = DurableFile(self.path)
        self._count(len(data))
        with translated(self.path):
            self._file.write(data)

    def copy(self, source: Path, allowed: Allowed) -> None:
        """Take over a file or folder. `allowed` is asked for every real path, links followed."""
        if source.is_dir():
            self._copy_folder(source, allowed)
        else:
            self._copy_file(source, self.path, allowed)

    def seal(self) -> None:
        """All bytes are there: make them durable and read-only."""
        if self._file is not None:
            _close(self._file)
            self._file = None
        if not self.path.exists():
            raise ModelUnusable("The model that was sent is empty.", remedy="Send the file's bytes as the body.")
        fsync_folder(self.folder)

    def call(self, name: str) -> None:
        """Give a sealed model another name."""
        if name != self.path.name:
            with translated(self.path):
                os.rename(self.path, self.folder / name)
                fsync_folder(self.folder)
            self.path = self.folder / name

    def discard(self) -> None:
        """Remove it all. Nothing happens if it was placed."""
        if self._file is not None:
            self._file.discard()
            self._file = None
        remove_tree(self.folder)

    def _copy_folder(self, source: Path, allowed: Allowed) -> None:
        for number, (found, relative) in enumerate(_files_in(source)):
            if number >= MAX_FILES:
                raise TooLarge(
                    f"The folder {source} holds more than {MAX_FILES:,} files.", remedy="Name the model's own folder."
                )
            target = self.path / relative
            with translated(target):
                make_folder(target.parent)
            self._copy_file(found, target, allowed)
        if not self.path.exists():
            raise ModelUnusable(f"The folder {source} is empty.", remedy="Name the folder that the model lies in.")

    def _copy_file(self, source: Path, target: Path, allowed: Allowed) -> None:
        with _opened(source, allowed) as (fd, before):
            file = DurableFile(target)
            try:
                while piece := os.read(fd, PIECE_BYTES):
                    self._count(len(piece))
                    with translated(target):
                        file.write(piece)
                after = os.fstat(fd)
                if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                    raise ModelUnusable(f"{source} changed while it was copied.", remedy="Add it again.")
            except BaseException:
                file.discard()
                raise
            _close(file)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self.max_bytes:
            raise TooLarge(
                f"The model is larger than {self.max_bytes:,} bytes.", remedy="Raise the setting max_upload_bytes."
            )


def _close(file: DurableFile) -> None:
    file.commit()
    os.chmod(file.path, 0o444)


def _files_in(folder: Path) -> Iterator[tuple[Path, Path]]:
    """(file, its path below the folder), sorted. Raises InvalidSpec for links to folders."""
    for here, folders, files in os.walk(folder):
        folders.sort()
        for name in folders:
            if os.path.islink(os.path.join(here, name)):
                raise InvalidSpec(
                    f"{os.path.join(here, name)} is a link to a folder.", remedy="Put the folder itself there."
                )
        for name in sorted(files):
            path = Path(here, name)
            yield path, path.relative_to(folder)


@contextmanager
def _opened(source: Path, allowed: Allowed) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file to read, never one that `allowed` says no to, never a pipe or a device."""
    try:
        real = source.resolve(strict=True)
        if not allowed(real):
            raise not_there(source)
        fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise not_there(source) from exc
    except (OSError, RuntimeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ModelUnusable(f"The model {source} cannot be read: {reason}.", remedy="Check its permissions.") from exc
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise ModelUnusable(f"{source} is neither a file nor a folder.", remedy="Name a file or a folder.")
        yield fd, facts
    finally:
        os.close(fd)


def not_there(source: Path) -> NotFound:
    """The error for a model that is not on disk, or not for whoever asks."""
    return NotFound(f"There is no model at {source}.", remedy="Give a model file, a folder, a URL, or module:Class.")


def safe_name(name: str) -> str:
    """A file's own name, fit for any folder: the last part of a path, without odd characters."""
    last = _UNSAFE.sub("_", name.replace("\\", "/").rstrip("/").rpartition("/")[2]).strip()
    while len(last.encode()) > MAX_NAME_BYTES:
        last = last[1:]
    return last if last.strip(".") else "model"


@contextmanager
def arriving(root: Path, name: str, max_bytes: int) -> Iterator[Arrival]:
    """Room for a model on its way in; what was not placed when the block ends is removed."""
    arrival, lock = begin(root, name, max_bytes)
    try:
        yield arrival
    finally:
        end(arrival, lock)


def begin(root: Path, name: str, max_bytes: int) -> tuple[Arrival, FileLock]:
    """The two ends of `arriving`, for callers that cannot hold a block open: `end` must follow."""
    waiting = root / INCOMING
    folder = waiting / new_id("arrival")
    with translated(folder):
        make_folder(waiting)
        lock = FileLock(_lock_of(folder))
        lock.try_lock()
        folder.mkdir()
    return Arrival(folder, name, max_bytes), lock


def end(arrival: Arrival, lock: FileLock) -> None:
    """Remove what was not placed. Safe to repeat."""
    try:
        arrival.discard()
    finally:
        lock.unlock(unlink=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def holding(root: Path, digest: str) -> Iterator[None]:
    """Keep sweepers and others who place the same bytes away until the store knows of them."""
    with translated(root):
        make_folder(root / LOCKS)
        lock = FileLock(root / LOCKS / digest)
        deadline = time.monotonic() + LOCK_SECONDS
        while not lock.try_lock():
            if time.monotonic() > deadline:
                raise OutputBusy(
                    f"Another process has been adding the model with sha256 {digest[:12]} for a minute.",
                    remedy="Try again later.",
                )
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.unlock(unlink=True)


def folder_of(root: Path, digest: str) -> Path:
    """Where the bytes with this digest lie, or will."""
    return root / digest[:2] / digest


def stored(root: Path, digest: str) -> Path | None:
    """The bytes with this digest, if they were placed. That they are still the same is for others to check."""
    try:
        (name,) = os.listdir(folder_of(root, digest))
    except (FileNotFoundError, ValueError):
        return None
    return folder_of(root, digest) / name


def place(root: Path, digest: str, arrival: Arrival) -> Path:
    """Give a sealed arrival its last name; what was there before, because it is damaged, goes. Hold the digest."""
    target = folder_of(root, digest)
    with translated(target):
        make_folder(target.parent)
        try:
            os.rename(arrival.folder, target)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            os.rename(target, arrival.folder.with_name(f"{arrival.folder.name}.damaged"))
            os.rename(arrival.folder, target)
            remove_tree(arrival.folder.with_name(f"{arrival.folder.name}.damaged"))
        fsync_folder(target.parent)
    return target / arrival.path.name


def sweep(root: Path, in_use: Callable[[], Iterable[str]], of_jobs: OfJobs, before: float) -> int:
    """Remove what no live process brings in, no version names and no job scores with, if it is as old as that
    (seconds since 1970); how many folders that were."""
    if not root.is_dir():
        return 0
    removed = _sweep_incoming(root / INCOMING, before) + _sweep_placed(root, in_use, of_jobs, before)
    _sweep_locks([*(root / INCOMING).glob("*.lock"), *(root / LOCKS).glob("*")], before)
    return removed


def _sweep_incoming(waiting: Path, before: float) -> int:
    removed = 0
    for folder in sorted(waiting.glob("arrival_*")) if waiting.is_dir() else ():
        if folder.suffix == ".lock" or not _is_old(folder, before):
            continue
        lock = FileLock(_lock_of(folder))
        if lock.try_lock():
            remove_tree(folder)
            lock.unlock(unlink=True)
            removed += 1
    return removed


def _sweep_locks(files: Iterable[Path], before: float) -> None:
    """Locks of processes that were killed; a lock may be removed only by who holds it."""
    for file in files:
        lock = FileLock(file)
        if _is_old(file, before) and not file.with_suffix("").is_dir() and lock.try_lock():
            lock.unlock(unlink=True)


def _sweep_placed(root: Path, in_use: Callable[[], Iterable[str]], of_jobs: OfJobs, before: float) -> int:
    found = [folder for folder in root.glob("[0-9a-f][0-9a-f]/*") if _is_old(folder, before)]
    orphans = set(found) - _folders(root, in_use()) if found else set()
    held = of_jobs({folder.name for folder in orphans}) if orphans else ()
    removed = 0
    for folder in sorted(folder for folder in orphans if folder.name not in held):
        with holding(root, folder.name):
            # Somebody may have registered or asked for these bytes since; now nobody can.
            if _is_old(folder, before) and folder not in _folders(root, in_use()) and not of_jobs({folder.name}):
                remove_tree(folder)
                removed += 1
    return removed


def _folders(root: Path, paths: Iterable[str]) -> set[Path]:
    return {Path(path).parent for path in paths if Path(path).is_relative_to(root)}


def _is_old(path: Path, before: float) -> bool:
    try:
        return path.lstat().st_mtime <= before
    except FileNotFoundError:
        return False
