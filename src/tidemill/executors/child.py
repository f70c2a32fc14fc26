"""What happens in a forked child: shed what belongs to the zygote, then run one entry point.

A task's child answers one request; a scorer's child talks until it is told to stop. Both speak the
messages that `local` reads. A child that ends without a farewell has died.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tidemill.domain.errors import InvalidSpec, TidemillError, Unrecoverable
from tidemill.executors.channel import Channel, ChannelClosed, Message

RUN_TASK = "tidemill.executors.child:run_task"
RUN_SCORER = "tidemill.executors.child:run_scorer"

OOM_SCORE = 500
"""Added to the kernel's badness: when memory runs out, scorers go before the worker."""

MAX_TEXT = 4_000

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends; end now if that was before.

    It works while native code holds the interpreter lock. Only Linux can do it; elsewhere the end of
    the zygote's socket has to do.
    """
    if sys.platform == "linux" and _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != parent:
        os._exit(1)


def live(order: Mapping[str, Any], *, zygote: int, channel_fd: int, log_fd: int, foreign_fds: Iterable[int]) -> None:
    """The whole life of a child, from the fork on; never returns."""
    code = 1
    try:
        die_with_parent(zygote)
        for fd in foreign_fds:
            os.close(fd)
        _become(order, log_fd)
        channel = Channel(socket.socket(fileno=channel_fd))
        load_entry(order["entry"])(channel)
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def _become(order: Mapping[str, Any], log_fd: int) -> None:
    # Own session: Ctrl-C in the terminal reaches only the worker, and the group can be killed as one.
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    faulthandler.enable(2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _volunteer_for_oom_kill()
    if order["memory_bytes"] is not None:
        _bound_memory(order["memory_bytes"])
    if order["path"] is None:
        sys.path[:] = dict.fromkeys([*sys.path, order["cwd"]])
    else:
        sys.path[:] = order["path"]
    with suppress(OSError):
        os.chdir(order["cwd"])


def _volunteer_for_oom_kill() -> None:
    path = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):
        path.write_text(str(min(1000, int(path.read_text()) + OOM_SCORE)))


def _bound_memory(memory_bytes: int) -> None:
    """Bound what this child may allocate on top of what it was forked with (that is shared)."""
    bound = data_bytes() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def data_bytes() -> int:
    """What counts towards RLIMIT_DATA now; 0 where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def load_entry(entry: str) -> Callable[..., Any]:
    """Import "module:function". Raises InvalidSpec if the name has no such form or is no function."""
    module, _, name = entry.partition(":")
    if not (module and name):
        raise InvalidSpec(f"{entry!r} is no entry point.", remedy='Write it as "module:function".')
    function = getattr(import_module(module), name, None)
    if not callable(function):
        raise InvalidSpec(f"The module {module!r} has no function {name!r}.")
    return function  # type: ignore[no-any-return]


def run_task(channel: Channel) -> None:
    """Answer one request {"entry", "request"} with {"result"}, {"error"} or {"memory"}."""
    order = channel.receive()
    if order is None:
        return

    def progress(report: Mapping[str, Any]) -> None:
        channel.send({"progress": dict(report)})

    def work() -> None:
        result = load_entry(order["entry"])(order["request"], progress)
        channel.send({"result": result})

    _say_farewell(channel, work)


def run_scorer(channel: Channel) -> None:
    """Give channel and job of {"entry", "job"} to the scorer's entry point; it returns after a "stop"."""
    order = channel.receive()
    if order is None:
        return
    _say_farewell(channel, lambda: load_entry(order["entry"])(channel, order["job"]))


def _say_farewell(channel: Channel, work: Callable[[], None]) -> None:
    """Run `work` and tell the worker what it raised: {"error", "expected"} or {"memory"}."""
    farewell: Message
    try:
        work()
        return
    except ChannelClosed:
        # The worker let go of this child: nobody waits for an answer.
        return
    except TidemillError as exc:
        traceback.print_exc()
        farewell = {"error": exc.to_json(), "expected": True}
    except MemoryError as exc:
        farewell = {"memory": _describe(exc)}
    except (Exception, Unrecoverable) as exc:
        traceback.print_exc()
        said = str(exc) if isinstance(exc, Unrecoverable) else _describe(exc)
        farewell = {"error": {"code": "job_failed", "message": said, "remedy": None}, "expected": False}
    # Only here are the frames that held the memory gone.
    with suppress(ChannelClosed):
        channel.send(farewell)
    raise SystemExit(1)


def _describe(error: BaseException) -> str:
    """ "<Class>: <text>", also for exceptions whose text cannot be made."""
    try:
        text = str(error)
    except Exception:
        text = "<no text>"
    name = type(error).__name__
    return f"{name}: {text[:MAX_TEXT]}" if text else name
