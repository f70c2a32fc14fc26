"""What strace saw of files: which content and which names were durable when something was renamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TRACE = "fsync,fdatasync,rename,renameat,renameat2,link,linkat,write,pwrite64,writev,openat,mkdir,ftruncate"
PREFIX = ("strace", "-f", "-qq", "-yy", "-s", "0", "-e", f"trace={TRACE}", "-o")
_LINE = re.compile(r"^(\d+)\s+(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FAILED = re.compile(r'\w+\((?:\d+<([^>]*)>|AT_FDCWD\S* "([^"]*)")')
_FD = re.compile(r"^\d+<(/[^>]*)>")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One successful call: its name, the path of its descriptor, the paths in its words."""

    name: str
    fd_path: str
    paths: tuple[str, ...]
    text: str


def read(log: Path) -> Iterator[Call]:
    """Successful calls in order of their end."""
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        if not (found := _LINE.match(line)):
            continue
        pid, text = found.groups()
        if text.endswith("<unfinished ...>"):
            begun[pid] = text.removesuffix("<unfinished ...>").rstrip()
            continue
        if (resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text)) and pid in begun:
            text = begun.pop(pid) + resumed[1]
        if (call := _CALL.match(text)) and int(call[3]) >= 0:
            descriptor = _FD.match(call[2])
            paths = tuple(path for path in _PATH.findall(call[2]) if path)
            yield Call(name=call[1], fd_path=descriptor[1] if descriptor else "", paths=paths, text=call[2])


@dataclass
class Files:
    """Follows content and names through the calls."""

    unsynced: set[str] = field(default_factory=set)
    """Files with content that no sync covered."""
    pending: set[str] = field(default_factory=set)
    """Names that no sync of their folder covered."""
    known: set[str] = field(default_factory=set)
    """Files and folders made since the log began."""

    def see(self, call: Call) -> None:
        if call.name in ("write", "pwrite64", "writev", "ftruncate"):
            self.unsynced.add(call.fd_path)
        elif call.name in ("fsync", "fdatasync"):
            self.unsynced.discard(call.fd_path)
            self.pending = {path for path in self.pending if str(Path(path).parent) != call.fd_path}
        elif call.name == "mkdir" or (call.name == "openat" and "O_CREAT" in call.text):
            self._made(call.paths[-1])
        elif call.name.startswith("rename"):
            self._renamed(*call.paths[-2:], exchange="RENAME_EXCHANGE" in call.text)
        elif call.name.startswith("link"):
            self._made(call.paths[-1])

    def below(self, folder: str) -> set[str]:
        """What is known under a folder, and itself."""
        return {path for path in self.known if _inside(path, folder)}

    def not_durable(self, folder: str) -> set[str]:
        """Under a folder, or at a file: content or names that a power cut could take."""
        inner = {path for path in self.pending if _inside(path, folder) and path != folder}
        return {path for path in self.unsynced if _inside(path, folder)} | inner

    def _made(self, path: str) -> None:
        if path not in self.known:
            self.known.add(path)
            self.pending.add(path)

    def _renamed(self, source: str, target: str, *, exchange: bool) -> None:
        for paths in (self.unsynced, self.pending, self.known):
            moved = {path for path in paths if _inside(path, source)}
            other = {path for path in paths if _inside(path, target)}
            paths -= moved | other
            paths |= {target + path[len(source) :] for path in moved}
            if exchange:
                paths |= {source + path[len(target) :] for path in other}
        self.known.add(target)
        self.pending.add(target)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def failing(log: Path, path: str, call: str, fault: str, *, anywhere: bool) -> list[str]:
    """The prefix under which a call on one path fails: of the first thread, or of any thread and child, each
    counted for itself.

    `$$` in the path is the pid of the command itself: the shell becomes the command, and strace only watches it.
    """
    watch = f'-qq -y -s 0 -o "{log}" -P "{path}" -e trace={call} -e inject={call}:{fault}'
    return ["sh", "-c", f'exec strace -D {"-f" if anywhere else ""} {watch} "$@"', "sh"]


def failed_calls(log: Path) -> list[str]:
    """The paths of the calls that were made to fail, in order."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.endswith("(INJECTED)")]
    return [found[1] or found[2] for line in lines if (found := re.search(_FAILED, line))]
