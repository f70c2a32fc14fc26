"""The process that children are forked from: `python -m tidemill.executors.zygote ORDER`.

It imports what children will need and forks them in milliseconds. It runs one thread, parses no data
and calls no model: threads and OpenMP do not survive a fork. It dies with the thread that started it,
and its children die with it.

Orders come over the control socket: {"op": "preload", "modules"} is answered by {"op": "preloaded",
"module", "error"} for each; {"op": "fork", "entry", "cwd", "path", "memory_bytes"} brings three
descriptors (the child's channel, a status socket, the child's log); "path" None leaves `sys.path` as
this interpreter has it. Over the status socket go {"pid"}
with a pidfd, then {"exit"} when the child has ended and been reaped; or {"failed"} if it cannot be forked.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tidemill.executors.channel import Link
from tidemill.executors.child import die_with_parent, live

LOOK_SECONDS = 0.05
"""How often children are looked at where the kernel has no pidfds."""


@dataclass(frozen=True, kw_only=True)
class _Forked:
    pid: int
    pidfd: int | None
    status: Link


class Zygote:
    """The loop. Ends, with all children, when the control socket does."""

    def __init__(self, control: socket.socket) -> None:
        self._control = Link(control)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ)
        self._children: dict[int, _Forked] = {}

    def run(self) -> None:
        while not self._control.closed:
            look = any(child.pidfd is None for child in self._children.values())
            self._selector.select(LOOK_SECONDS if look else None)
            self._reap()
            for order in self._control.receive():
                self._obey(order)
        self._end()

    def _obey(self, order: Mapping[str, Any]) -> None:
        if order["op"] == "preload":
            for module in order["modules"]:
                self._control.post({"op": "preloaded", "module": module, "error": preload(module)})
                self._control.flush()
        else:
            channel_fd, status_fd, log_fd = (self._control.fds.popleft() for _ in range(3))
            status = Link(socket.socket(fileno=status_fd))
            self._fork(order, channel_fd, status, log_fd)

    def _fork(self, order: Mapping[str, Any], channel_fd: int, status: Link, log_fd: int) -> None:
        zygote = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as exc:
            status.post({"failed": exc.strerror})
            status.flush()
            status.close()
        else:
            if pid == 0:
                foreign = [*self._own_fds(), status.fileno()]
                live(order, zygote=zygote, channel_fd=channel_fd, log_fd=log_fd, foreign_fds=foreign)
            self._watch(pid, status)
        os.close(channel_fd)
        os.close(log_fd)

    def _watch(self, pid: int, status: Link) -> None:
        pidfd = None
        if hasattr(os, "pidfd_open"):
            pidfd = os.pidfd_open(pid)
            self._selector.register(pidfd, selectors.EVENT_READ)
        self._children[pid] = _Forked(pid=pid, pidfd=pidfd, status=status)
        status.post({"pid": pid}, [] if pidfd is None else [pidfd])
        status.flush()

    def _own_fds(self) -> list[int]:
        """What a child must not keep open, so that a closed socket means a dead process."""
        fds = [self._control.fileno(), *self._control.fds]
        for child in self._children.values():
            fds.append(child.status.fileno())
            if child.pidfd is not None:
                fds.append(child.pidfd)
        # An epoll object would be shared with the zygote; the other selectors have no descriptor.
        if isinstance(self._selector, selectors.EpollSelector):
            fds.append(self._selector.fileno())
        return fds

    def _reap(self) -> None:
        for child in list(self._children.values()):
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                self._bury(child)

    def _bury(self, child: _Forked) -> None:
        # Not reaped yet, so the number still names its group: what it left behind goes too.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        _, wait_status = os.waitpid(child.pid, 0)
        del self._children[child.pid]
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
        child.status.post({"exit": os.waitstatus_to_exitcode(wait_status)})
        child.status.flush()
        child.status.close()

    def _end(self) -> None:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in list(self._children.values()):
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            self._bury(child)


def preload(module: str) -> str | None:
    """Import a module; the reason if it cannot be, which is no failure: whoever needs it will see."""
    gc.disable()  # Modules are no garbage: looking for it takes a tenth of the time of an import.
    try:
        import_module(module)
    except BaseException as exc:
        return f"{type(exc).__name__}: {exc}"
    finally:
        # Children then share these pages instead of copying them at their first garbage collection.
        gc.freeze()
        gc.enable()
    return None


def main(argument: str) -> None:
    """`argument` is JSON: the parent's pid, the control socket's descriptor, sys.path (None: as it is) and
    PYTHONPATH. Ends the process."""
    order = json.loads(argument)
    die_with_parent(order["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if order["path"] is not None:
        sys.path[:] = order["path"]
    os.environ.pop("PYTHONPATH", None)
    if order["pythonpath"] is not None:
        os.environ["PYTHONPATH"] = order["pythonpath"]
    # For a print in a child to be in its log when it is killed.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    control = socket.socket(fileno=order["control"])
    control.set_inheritable(False)
    Zygote(control).run()
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to do but to take all libraries apart, which takes as long as to import one.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
