"""Entry points that look at the child they run in, or misuse it."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Progress = Callable[[dict[str, Any]], None]


def look(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """What this child was given."""
    return {
        "modules": [name for name in request.get("modules", []) if name in sys.modules],
        "environment": {name: os.environ.get(name) for name in request.get("environment", [])},
        "sigint_ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "leads_its_session": os.getsid(0) == os.getpid(),
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
        "core_bytes": resource.getrlimit(resource.RLIMIT_CORE),
        "stdin": sys.stdin.read(),
        "sockets": sum(stat.S_ISSOCK(os.stat(f"/proc/self/fd/{fd}").st_mode) for fd in _fds()),
        "fds": len(_fds()),
        "folder": os.getcwd(),
        "main": sys.modules["__main__"].__spec__.name,
        "parent": os.getppid(),
    }


def _fds() -> list[str]:
    # The descriptor that lists the folder is gone when it has been listed.
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]


def garble(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Write to the channel what is no message, then live on."""
    for fd in _fds():
        if stat.S_ISSOCK(os.stat(f"/proc/self/fd/{fd}").st_mode):
            os.write(int(fd), bytes.fromhex(request["bytes"]))
    time.sleep(600)
    return {}


def deafen(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Close what is not ours, as daemons do, and live on."""
    progress({"pid": os.getpid()})
    os.closerange(3, 100)
    time.sleep(600)
    return {}


def breed(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Start a program that would outlive us, and a fork that holds all our descriptors."""
    program = subprocess.Popen(["sleep", "600"])
    fork = os.fork()
    if fork == 0:
        time.sleep(600)
    progress({"pids": [program.pid, fork]})
    if request["die"]:
        os._exit(5)
    return {"pids": [program.pid, fork]}


def hold(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Wait for a file to appear."""
    progress({"pid": os.getpid()})
    while not Path(request["file"]).exists():
        time.sleep(0.01)
    return {"held": True}
