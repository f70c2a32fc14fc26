"""The files of the input. What is imported here is little: a command that has nothing to do ends after it."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tidemill.domain.confines import Confines
from tidemill.domain.errors import InputUnreadable, InvalidSpec, NotAllowed, NotFound
from tidemill.domain.input_list import LIST_MARK, listed_paths
from tidemill.domain.plan import InputFile

_MAGIC = re.compile(r"[*?\[]")
_HIDDEN = (".", "_")
COMPRESSIONS = (".gz", ".zst")
"""Endings of whole files that are compressed, after that of their format."""


def list_inputs(
    paths: Sequence[str],
    suffixes: tuple[str, ...] | None,
    confines: Confines | None = None,
    *,
    may_be_empty: bool = False,
) -> Iterator[InputFile]:
    """The input files, by absolute path: arguments in their order, within one sorted by the bytes of the path.

    A path is a file, a folder (searched with all its subfolders, skipping names that begin with "." or
    "_") or a glob pattern, where `**` means any number of folders and a matched folder means all of its
    files. `suffixes` (None for any) choose among a folder's files, compression endings aside; a file
    that is named or matched by a pattern counts whatever it is called. `@FILE` stands for the paths
    that are the lines of a file. A file that several paths lead to counts once, where it comes first.
    Memory depends on the largest folder and the number of paths, not on the number of files.
    With `confines`, links are followed only within them, and no list of paths is read.
    Raises NotFound for a path that leads to nothing - with `may_be_empty` a folder that is there does not have to
    have files -, InputUnreadable for what is no regular file or may not be read, NotAllowed for what lies outside the
    confines.
    """
    earlier, real = _Earlier(), _RealPaths(confines)
    for text in paths if confines is not None else _listed(paths):
        argument = _argument(text, suffixes, real)
        found = False
        for path in argument.files():
            found = True
            if not earlier.covers(path):
                yield _input_file(path, real)
        if not found and not (may_be_empty and argument.is_there()):
            raise argument.nothing()
        earlier.add(argument)


def _listed(paths: Iterable[str]) -> Iterator[str]:
    """The paths, with those that stand in files, one a line, in the place of `@FILE`."""
    for text in paths:
        if not text.startswith(LIST_MARK):
            yield text
            continue
        path = os.path.abspath(os.path.expanduser(text.removeprefix(LIST_MARK)))
        with _readable(path), open(path, "rb") as lines:
            yield from listed_paths(lines, path)


def plain_name(path: str) -> str:
    """The file's name in lower case, without a compression ending."""
    name = os.path.basename(path).lower()
    return next((name.removesuffix(ending) for ending in COMPRESSIONS if name.endswith(ending)), name)


class _Argument(ABC):
    """One path that a person gave."""

    path: str

    @abstractmethod
    def files(self) -> Iterator[str]:
        """Absolute paths, sorted by their bytes."""

    @abstractmethod
    def covers(self, path: str) -> bool:
        """Whether `files` has, or had, this path."""

    @abstractmethod
    def is_there(self) -> bool:
        """Whether the file, or the folder that is searched, exists."""

    def nothing(self) -> NotFound:
        """The error for an argument without files."""
        return NotFound(f"There is no file or folder {self.path}.", remedy=_did_you_mean(self.path))


@dataclass(frozen=True)
class _File(_Argument):
    path: str

    def files(self) -> Iterator[str]:
        yield self.path

    def covers(self, path: str) -> bool:
        return path == self.path

    def is_there(self) -> bool:
        return True


@dataclass(frozen=True)
class _Missing(_Argument):
    path: str

    def files(self) -> Iterator[str]:
        return iter(())

    def covers(self, path: str) -> bool:
        return False

    def is_there(self) -> bool:
        return False


@dataclass(frozen=True)
class _Folder(_Argument):
    path: str
    suffixes: tuple[str, ...] | None
    real: _RealPaths

    def files(self) -> Iterator[str]:
        return (path for path in _walk(self.path, _visible, self.real.descend) if _has_suffix(path, self.suffixes))

    def covers(self, path: str) -> bool:
        inside = _inside(self.path, path)
        return inside is not None and all(map(_visible, inside.split("/"))) and _has_suffix(path, self.suffixes)

    def is_there(self) -> bool:
        return True

    def nothing(self) -> NotFound:
        if self.suffixes is None:
            return NotFound(f"There are no files in {self.path}.", remedy="Name a folder that has some.")
        other = next(_walk(self.path, _visible, self.real.descend), None)
        hint = f"It holds, for example, {os.path.basename(other)}: name the format." if other else "It is empty."
        return NotFound(f"There are no files ending in {', '.join(self.suffixes)} in {self.path}.", remedy=hint)


class _Glob(_Argument):
    def __init__(self, path: str, suffixes: tuple[str, ...] | None, real: _RealPaths) -> None:
        self.path, self.suffixes, self.real = path, suffixes, real
        parts = path.split("/")
        first = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
        self.root = "/".join(parts[:first]) or "/"
        self.parts = parts[first:]
        self._whole = re.compile(_glob_regex(self.parts), re.DOTALL)

    def files(self) -> Iterator[str]:
        if not os.path.isdir(self.root):
            return iter(())
        return (path for path in _walk(self.root, self._names, self._may_hold) if self._matches(path))

    def covers(self, path: str) -> bool:
        inside = _inside(self.root, path)
        return inside is not None and all(map(self._names, inside.split("/"))) and self._matches(path)

    def is_there(self) -> bool:
        return os.path.isdir(self.root)

    def nothing(self) -> NotFound:
        remedy = "Quote the pattern so that the shell leaves it alone, and check its spelling."
        return NotFound(f"No file matches {self.path}.", remedy=remedy)

    def _names(self, name: str) -> bool:
        """A hidden name counts only if the pattern asks for it: `_old*`, not `*`."""
        return _visible(name) or any(part[:1] == name[:1] and fnmatch.fnmatchcase(name, part) for part in self.parts)

    def _may_hold(self, folder: str) -> bool:
        """Whether something below the folder could match."""
        inside = (_inside(self.root, folder) or "").split("/")
        for name, part in zip(inside, self.parts, strict=False):
            if part == "**":
                break
            if not fnmatch.fnmatchcase(name, part):
                return False
        return self.real.descend(folder)

    def _matches(self, path: str) -> bool:
        inside = _inside(self.root, path) or ""
        if self._whole.fullmatch(inside):
            return True
        if not _has_suffix(path, self.suffixes):
            return False
        names = inside.split("/")
        return any(self._whole.fullmatch("/".join(names[:count])) for count in range(1, len(names)))


class _RealPaths:
    """Where files and folders lie, links followed, and that it is where they may."""

    def __init__(self, confines: Confines | None) -> None:
        self._confines = confines
        self._folder: tuple[str, str] = ("", "")
        """The folder that was asked about last, and where it lies: files come folder by folder."""

    def of_file(self, path: str) -> str:
        """Raises NotAllowed for a file outside the confines."""
        folder, name = os.path.split(path)
        if self._folder[0] != folder:
            self._folder = (folder, os.path.realpath(folder))
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(self._folder[1], name)
        self._check(path, real)
        return real

    def descend(self, folder: str) -> bool:
        """True. Raises NotAllowed for a link to a folder outside the confines."""
        if self._confines is not None and os.path.islink(folder):
            with _readable(folder):
                real = os.path.realpath(folder)
            self._check(folder, real)
        return True

    def _check(self, path: str, real: str) -> None:
        if self._confines is not None and not self._confines.hold(real):
            raise NotAllowed(
                f"{path} lies outside the folders that a job which came with an API key may read.",
                remedy="Send the file, or ask the operator to name its folder in data_roots on every worker.",
            )


class _Earlier:
    """Which files came already, known from the arguments alone."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._others: list[_Argument] = []

    def add(self, argument: _Argument) -> None:
        if isinstance(argument, _File):
            self._files.add(argument.path)
        else:
            self._others.append(argument)

    def covers(self, path: str) -> bool:
        return path in self._files or any(argument.covers(path) for argument in self._others)


def _argument(text: str, suffixes: tuple[str, ...] | None, real: _RealPaths) -> _Argument:
    if "://" in text and not text.startswith("file://"):
        raise InvalidSpec(
            f"{text} is not a path on this machine.", remedy="Give files, folders or glob patterns of a local disk."
        )
    path = os.path.abspath(os.path.expanduser(text.removeprefix("file://")))
    with _readable(path):
        if os.path.isdir(path):
            return _Folder(path, suffixes, real)
        if os.path.lexists(path):
            return _File(path)
    if path.endswith("/**"):
        # All files of what stands before: as if that had been named itself.
        return _argument(path.removesuffix("/**") or "/", suffixes, real)
    return _Glob(path, suffixes, real) if _MAGIC.search(path) else _Missing(path)


def _walk(
    folder: str, names: Callable[[str], bool], descend: Callable[[str], bool], above: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
    """Files below the folder in the order of their paths' bytes; a link back to a folder above is not followed."""
    with _readable(folder):
        found = os.stat(folder)
        identity = (found.st_dev, found.st_ino)
        if identity in above:
            return
        with os.scandir(folder) as entries:
            # A folder sorts as what its files' paths have in common: with the slash.
            listed = sorted(
                os.fsencode(entry.name) + (b"/" if entry.is_dir() else b"") for entry in entries if names(entry.name)
            )
    for raw in listed:
        path = os.path.join(folder, os.fsdecode(raw))
        if not path.endswith("/"):
            yield path
        elif descend(path[:-1]):
            yield from _walk(path[:-1], names, descend, (*above, identity))


def _input_file(path: str, real: _RealPaths) -> InputFile:
    with _readable(path):
        lies_at = real.of_file(path)
        found = os.stat(lies_at)
    if not stat.S_ISREG(found.st_mode):
        raise InputUnreadable(
            f"{path} is not a regular file.", remedy="Write its content to a file first, or take it out of the input."
        )
    if not os.access(path, os.R_OK):
        raise InputUnreadable(f"{path} may not be read.", remedy="Change its permissions, or take it out of the input.")
    return InputFile(path=path, size_bytes=found.st_size, mtime_ns=found.st_mtime_ns, real_path=lies_at)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InputUnreadable(
            f"Cannot read {path}: {exc.strerror or exc}.", remedy="Check that it is there and may be read."
        ) from exc


def _visible(name: str) -> bool:
    return not name.startswith(_HIDDEN)


def _has_suffix(path: str, suffixes: tuple[str, ...] | None) -> bool:
    return suffixes is None or plain_name(path).endswith(suffixes)


def _inside(folder: str, path: str) -> str | None:
    prefix = folder if folder.endswith("/") else f"{folder}/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _glob_regex(parts: Sequence[str]) -> str:
    """A pattern for paths relative to the glob's fixed part."""
    pieces = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            pieces.append("(?:[^/]+/)*")
        else:
            pieces.append(_name_regex(part) + ("" if last else "/"))
    return "".join(pieces)


def _name_regex(part: str) -> str:
    """One name of a pattern: `*` and `?` stop at a slash, `[a-z]` and `[!a-z]` are one character."""
    pieces = []
    for token in re.findall(r"\*+|\?|\[[!^]?\]?[^\]]*\]|.", part, re.DOTALL):
        if token.startswith("*"):
            pieces.append("[^/]*")
        elif token == "?":
            pieces.append("[^/]")
        elif len(token) > 1:
            negated = token[1] in "!^"
            body = token[1 + negated : -1].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]")
            pieces.append(f"(?!/)[{'^' * negated}{body}]")
        else:
            pieces.append(re.escape(token))
    return "".join(pieces)


def _did_you_mean(path: str) -> str:
    """Names beside the missing one that look like it."""
    folder, name = os.path.split(path)
    while not os.path.isdir(folder) and folder != "/":
        folder, name = os.path.split(folder)
    try:
        siblings = os.listdir(folder)[:10_000]
    except OSError:
        siblings = []
    close = difflib.get_close_matches(name, siblings, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(os.path.join(folder, sibling) for sibling in close)}?"
    return f"Check the spelling; the folder {folder} is there." if folder != "/" else "Check the spelling."
