"""What children print: kept within a bound, quoted when they die."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile

LOG_BYTES = 64 * 2**10
LOG_BOUND_BYTES = 2**20
QUOTED_LINES = 12


class Log:
    """Where a process prints to. Bounded: only the last 64 KiB are kept, by whoever calls `bound`."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._fd = os.memfd_create("tidemill-log")
        else:
            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())
        # Several processes write, and the file is cut under them.
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) | os.O_APPEND)
        self._kept = b""

    def fileno(self) -> int:
        return self._fd

    def bound(self) -> None:
        """Cut the file if it has grown over 1 MiB."""
        if self._fd >= 0 and os.fstat(self._fd).st_size > LOG_BOUND_BYTES:
            self._kept = self._tail()
            os.ftruncate(self._fd, 0)

    def text(self) -> str:
        """The last 64 KiB."""
        return self._tail().decode(errors="replace")

    def clear(self) -> None:
        """Forget what was printed: it belongs to another job."""
        self._kept = b""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)

    def _tail(self) -> bytes:
        if self._fd < 0:
            return self._kept
        size = os.fstat(self._fd).st_size
        return (self._kept + os.pread(self._fd, LOG_BYTES, max(0, size - LOG_BYTES)))[-LOG_BYTES:]

    def close(self) -> None:
        """Give the file back; the tail stays readable."""
        if self._fd >= 0:
            self._kept = self._tail()
            os.close(self._fd)
            self._fd = -1


def quote(log: str) -> str:
    """The last lines of a log, to end an error message with; empty if there are none.

    Frames below the entry point are left out: they are the same in every traceback.
    """
    kept: list[str] = []
    ours = False
    for line in log.splitlines():
        if line.lstrip().startswith('File "'):
            ours = "/tidemill/executors/" in line or "<frozen runpy>" in line
        elif not line.startswith("    "):
            ours = False
        if line.strip() and not ours:
            kept.append(line[:500])
    return "\nIt printed last:\n  " + "\n  ".join(kept[-QUOTED_LINES:]) if kept else ""
