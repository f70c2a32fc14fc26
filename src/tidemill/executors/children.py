"""The worker's side of zygote and children: starting them, hearing them, ending them.

No native library is loaded here; a child is heard through sockets and killed through a pidfd, so that
neither a busy zygote nor a reused process number can mislead.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemill.domain.errors import ChildDied, EnvironmentUnusable
from tidemill.executors.channel import Link, Message
from tidemill.executors.death import Death, count_oom_kills, describe, explain
from tidemill.executors.log import Log, quote
from tidemill.executors.starter import Starter

logger = logging.getLogger(__name__)

THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
ONE_THREAD = dict.fromkeys(THREAD_SETTINGS, "1")
"""Libraries read these when they are imported; cores are shared out by scorers and threads instead."""

LAZY_ARENAS = {"MIMALLOC_ARENA_EAGER_COMMIT": "0"}
"""Arrow's allocator else takes a gigabyte at once, which would use up or hide the bound of memory."""


ZYGOTE_DEATHS = 3
"""After so many deaths of zygotes with nothing done in between the executor gives up."""

SEND_SECONDS = 60.0
DEAF_SECONDS = 1.0
STATUS_SECONDS = 5.0
GONE_SECONDS = 30.0
END_SECONDS = 5.0

ELSEWHERE = Path(__file__).with_name("elsewhere.py")


class Child:
    """One forked child. Used by one thread at a time, but for `strike` and `await_end`.

    Messages are held back until the zygote has said the child's pid: one that is given up before can
    never start to work.
    """

    def __init__(
        self,
        *,
        channel: Link,
        status: Link,
        log: Log,
        origin: Origin,
        memory_bytes: int | None,
        clock: Callable[[], float],
    ) -> None:
        self.pid: int | None = None
        self.log = log
        self.born_at: float | None = None
        self.forked_at = clock()
        self._clock = clock
        self._channel = channel
        self._status = status
        self._origin = origin
        self._memory_bytes = memory_bytes
        self._oom_kills = count_oom_kills()
        self._pidfd: int | None = None
        self._gone = False
        self._exit_code: int | None = None
        self._failed: str | None = None
        self._deaf_at: float | None = None
        self._death: Death | None = None
        self._struck: str | None = None
        self._at_close: list[Callable[[Child], None]] = []
        self._lock = threading.Lock()
        """Held to use or close the pidfd where another thread may do the other: a number that was given
        back can name somebody else's descriptor a moment later."""

    def post(self, message: Mapping[str, Any]) -> None:
        """Queue a message; it goes out as the child reads. Raises TooLarge."""
        self._channel.post(message)
        self._flush()

    def hear(self) -> list[Message]:
        """What the child has said by now. Send what waits, keep the log bounded."""
        self._hear_zygote()
        self._flush()
        # Once it has ended all that it said is there, and must be heard before its death is told.
        messages = self._channel.receive(None if self._ended else 2**20)
        self.log.bound()
        return messages

    def death(self) -> Death | None:
        """How the child ended, once it is gone and all it said has been heard; else None."""
        if self._death is None:
            self._death = self._find_death()
        return self._death

    def kill(self) -> None:
        """SIGKILL, at once; the end comes as `death`. An unborn child is only given up by `close`."""
        with self._lock:
            self._send_kill()

    def strike(self, cause: str) -> None:
        """`kill` from any thread. One that is not born yet will never work; it counts as dead at once."""
        with self._lock:
            self._struck = self._struck or cause
            self._send_kill()

    @property
    def struck(self) -> bool:
        """Whether somebody else has killed it with `strike`."""
        return self._struck is not None

    def await_end(self, seconds: float) -> None:
        """Wait from any thread, at most so long, until a child that was struck is gone."""
        with self._lock:
            if self._pidfd is None:
                return
            fd = os.dup(self._pidfd)
        try:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.poll(math.ceil(max(0.0, seconds) * 1000))
        finally:
            os.close(fd)

    def at_close(self, call: Callable[[Child], None]) -> None:
        """Have this called once when the child is closed."""
        self._at_close.append(call)

    def let_go(self, call: Callable[[Child], None]) -> None:
        """Take back an `at_close`."""
        self._at_close.remove(call)

    def _send_kill(self) -> None:
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        elif self.pid is not None and not self._ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it lives, wait until it is gone, give everything back.

        Raises ChildDied if the kernel does not let go of it (it hangs in a dead file system).
        """
        try:
            self._hear_zygote()
            self.kill()
            self._await_gone()
        finally:
            self._channel.close()
            self._status.close()
            self.log.close()
            with self._lock:
                if self._pidfd is not None:
                    os.close(self._pidfd)
                    self._pidfd = None
            while self._at_close:
                self._at_close.pop()(self)

    def register(self, poller: select.poll) -> None:
        """Let a poller wake up when there is something to hear."""
        if not self._status.closed:
            poller.register(self._status, select.POLLIN)
        if not self._channel.closed:
            writing = select.POLLOUT if self.pid is not None and self._channel.pending else 0
            poller.register(self._channel, select.POLLIN | writing)
        elif self._pidfd is not None and not self._gone:
            poller.register(self._pidfd, select.POLLIN)

    @property
    def _ended(self) -> bool:
        return self._exit_code is not None or self._failed is not None or self._status.closed

    def _flush(self) -> None:
        if self.pid is not None and self._struck is None:
            self._channel.flush()

    def _hear_zygote(self) -> None:
        for message in self._status.receive():
            if "pid" in message:
                self._take_birth(message["pid"])
            self._exit_code = message.get("exit", self._exit_code)
            self._failed = message.get("failed", self._failed)

    def _take_birth(self, pid: int) -> None:
        with self._lock:
            self.pid = pid
            self.born_at = self._clock()
            if self._status.fds:
                self._pidfd = self._status.fds.popleft()
            if self._struck is not None:
                self._send_kill()

    def _is_gone(self) -> bool:
        if not self._gone:
            if self._pidfd is not None:
                poller = select.poll()
                poller.register(self._pidfd, select.POLLIN)
                self._gone = bool(poller.poll(0))
            else:
                self._gone = self._ended
        return self._gone

    def _await_gone(self) -> None:
        deadline = time.monotonic() + GONE_SECONDS
        while self.pid is not None and not self._is_gone():
            if time.monotonic() > deadline:
                raise ChildDied(
                    f"The child process {self.pid} was killed but does not end.",
                    remedy="It waits in the kernel, perhaps for a network file system that does not answer.",
                )
            if self._pidfd is not None:
                poller = select.poll()
                poller.register(self._pidfd, select.POLLIN)
                poller.poll(1000)
            else:
                time.sleep(0.01)
                self._hear_zygote()

    def _find_death(self) -> Death | None:
        if self._struck is not None:
            gone = self.pid is None or self._is_gone()
            return Death(kind="died", cause=self._struck, log=self.log.text(), orphan=True) if gone else None
        if self._ended:
            return self._explain() if self._is_gone() else None
        if not self._channel.closed:
            return None
        # Nothing more can be heard from it; usually it is ending and the zygote is about to say how.
        now = self._clock()
        self._deaf_at = self._deaf_at or now
        if self._channel.broken is not None or now - self._deaf_at > DEAF_SECONDS:
            self.kill()
        if self._is_gone() and (self._channel.broken is not None or now - self._deaf_at > STATUS_SECONDS):
            return Death(kind="died", cause=self._deaf_cause(), log=self.log.text())
        return None

    def _deaf_cause(self) -> str:
        if self._channel.broken is not None:
            return f"killed because it sent what is no message ({self._channel.broken})"
        return "ended without saying why"

    def _explain(self) -> Death:
        log = self.log.text()
        if self._channel.broken is not None:
            return Death(kind="died", cause=self._deaf_cause(), log=log)
        if self._exit_code is not None:
            oom_kills = count_oom_kills() - self._oom_kills
            return explain(self._exit_code, log=log, memory_bytes=self._memory_bytes, oom_kills=oom_kills)
        if self._failed is not None:
            return Death(kind="died", cause=f"could not be started: {self._failed}", log=log)
        return Death(kind="died", cause=self._origin.cause(), log=log, orphan=True)


def wait_for(children: Iterable[Child], seconds: float) -> None:
    """Wait until there is something to hear from one of them, at most so long."""
    poller = select.poll()
    for child in children:
        child.register(poller)
    poller.poll(math.ceil(max(0.0, seconds) * 1000))


class Brood:
    """Children that are ended together, and with those of `outer`. Thread-safe."""

    def __init__(self, name: str, outer: Brood | None = None) -> None:
        self.name = name
        self._outer = outer
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._kills = 0
        self._closed = False

    def bear(self, fork: Callable[[], Child]) -> Child:
        """Hold the child that `fork` makes. One that is made while `kill` runs is killed too.

        Raises ChildDied if this is closed.
        """
        with self._lock:
            kills = self._kills
            if self._closed:
                raise ChildDied(f"{self.name} is closed.", remedy="Make a new one.")
        child = fork() if self._outer is None else self._outer.bear(fork)
        with self._lock:
            self._children.add(child)
            child.at_close(self._forget)
            late = self._closed or kills != self._kills
        if late:
            child.strike(self._cause)
        return child

    def release(self, child: Child) -> None:
        """Let a child live on without this."""
        child.let_go(self._forget)
        self._forget(child)
        if self._outer is not None:
            self._outer.release(child)

    def kill(self) -> None:
        """Kill every child and wait, for a while, until they are gone; from any thread."""
        with self._lock:
            self._kills += 1
            children = list(self._children)
        for child in children:
            child.strike(self._cause)
        deadline = time.monotonic() + END_SECONDS
        for child in children:
            child.await_end(deadline - time.monotonic())

    def close(self) -> None:
        """`kill`, and hold no child any more."""
        with self._lock:
            self._closed = True
        self.kill()

    @property
    def _cause(self) -> str:
        return f"killed with all that ran for {self.name}"

    def _forget(self, child: Child) -> None:
        with self._lock:
            self._children.discard(child)


@dataclass(kw_only=True)
class Origin:
    """One zygote process."""

    process: subprocess.Popen[bytes]
    control: Link
    log: Log
    importing: list[str] = field(default_factory=list)
    """Modules that it was asked to import and has not answered for, in order."""
    killed: bool = False
    """Whether we killed it on purpose."""

    def cause(self) -> str:
        """Why its children were lost. Waits a moment for its end."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(END_SECONDS)
            return f"lost with the process that children are forked from, which was {describe(code)}"
        return "lost with the process that children are forked from"

    @property
    def usable(self) -> bool:
        return self.process.poll() is None and not (self.control.closed or self.control.mute)

    def hear(self) -> None:
        for message in self.control.receive():
            with suppress(ValueError):
                self.importing.remove(message["module"])
            if message["error"] is not None:
                logger.debug("cannot preload %s: %s", message["module"], message["error"])

    def send(self, message: Mapping[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send an order; one that dies meanwhile is noticed by its status sockets. It may be busy
        importing: kill it if it takes no orders for a minute."""
        self.control.post(message, fds)
        self.control.flush()
        deadline = time.monotonic() + SEND_SECONDS
        while self.control.pending and self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
            poller = select.poll()
            poller.register(self.control, select.POLLOUT)
            poller.poll(1000)
            self.control.flush()

    def kill(self) -> None:
        """Kill it, and the kernel its children; takes no lock. Where the kernel does not, it is told to."""
        self.killed = True
        if sys.platform == "linux":
            self.process.kill()
        else:
            self.control.shut_down()

    def end(self) -> None:
        """Let it end its children and itself; then reap it."""
        self.control.close()
        self.await_end()
        self.log.close()

    def await_end(self) -> None:
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Zygote:
    """The process of one interpreter that children are forked from, started again when it has died.
    Thread-safe.

    The kernel kills it, and with it every child, when the *thread* that started it ends: that is the
    starter's, which must live as long as this is used. `python` None is the interpreter that runs now.
    """

    def __init__(
        self,
        starter: Starter,
        preload: Iterable[str] = (),
        python: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.RLock()
        self._clock = clock
        self._starter = starter
        self._python = python
        self._modules = list(dict.fromkeys(preload))
        self._counting = threading.Lock()
        """Apart from the lock above, which can be held while a process starts: closing a child waits for nothing."""
        self._children: set[Child] = set()
        self._used_at = clock()
        self._deadly: set[str] = set()
        self._deaths = 0
        self._closed = False
        self._origin: Origin | None = self._start()

    @property
    def pid(self) -> int | None:
        """The process that runs now, if any."""
        return None if self._origin is None else self._origin.process.pid

    def fork(self, entry: str, *, preload: Iterable[str] = (), memory_bytes: int | None = None) -> Child:
        """Have a child forked, which runs `entry` ("module:function") with its channel.

        Returns at once, while the zygote may still import. Raises ChildDied if zygotes keep dying.
        """
        with self._lock:
            origin = self._living()
            self._preload(origin, preload)
            child = _fork(origin, entry, memory_bytes, lend_path=self._python is None, clock=self._clock)
            with self._counting:
                self._children.add(child)
            child.at_close(self._forget)
            return child

    def preload(self, modules: Iterable[str]) -> None:
        """Have modules imported for children to come. Returns at once; raises ChildDied if zygotes keep dying."""
        with self._lock:
            self._preload(self._living(), modules)

    def _forget(self, child: Child) -> None:
        with self._counting:
            self._children.discard(child)
            self._used_at = self._clock()

    def close_if_idle(self, seconds: float) -> bool:
        """End it if it has had no child for so long and nobody asks for one now; whether it is ended."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._children and self._clock() - self._used_at >= seconds:
                self.close()
            return self._closed
        finally:
            self._lock.release()

    def touch(self) -> None:
        """It is about to be used."""
        self._used_at = self._clock()

    def thrive(self) -> None:
        """Something was done: deaths before do not count any more."""
        self._deaths = 0

    def kill(self) -> None:
        """Kill the process and every child, from any thread; the next fork starts another."""
        first = self._origin
        if first is not None:
            first.kill()
        with self._lock:
            # Another thread may just have been starting one.
            if self._origin is not None:
                if self._origin is not first:
                    self._origin.kill()
                # The kernel tells the children before it tells us.
                self._origin.await_end()

    def kill_hung(self) -> None:
        """Kill the process because it does not fork; unlike `kill` this counts as a death of it."""
        with self._lock:
            if self._origin is not None:
                self._origin.process.kill()

    def close(self) -> None:
        """End it and every child."""
        with self._lock:
            self._closed = True
            if self._origin is not None:
                self._origin.hear()
                if self._origin.importing and not self._children:
                    # What it imports nobody waits for.
                    self._origin.kill()
                self._origin.end()
                self._origin = None

    def _living(self) -> Origin:
        if self._closed:
            raise ChildDied("The executor is closed.", remedy="Make a new one.")
        if self._origin is not None:
            self._origin.hear()
            self._origin.log.bound()
            if self._origin.usable:
                return self._origin
            self._bury(self._origin)
        if self._origin is None:
            self._origin = self._start()
        return self._origin

    def _bury(self, origin: Origin) -> None:
        on_purpose = origin.killed
        origin.kill()
        origin.end()
        self._origin = None
        if origin.importing:
            # It may have died of this import: let those that need the module do it, and die for it alone.
            self._deadly.add(origin.importing[0])
        self._deaths += not on_purpose
        logger.info("zygote %s; it printed: %s", describe(origin.process.returncode), origin.log.text())
        if self._deaths >= ZYGOTE_DEATHS:
            self._deaths = 0
            raise ChildDied(
                f"The process that children are forked from died {ZYGOTE_DEATHS} times with nothing done in between: "
                f"{describe(origin.process.returncode)}.{quote(origin.log.text())}",
                remedy="If this machine is short of memory, free some; else look who kills it.",
            )

    def _start(self) -> Origin:
        ours, theirs = socket.socketpair()
        log = Log()
        program, environment = _program(self._python, theirs.fileno())
        try:
            process = self._starter.run(
                lambda: subprocess.Popen(
                    program,
                    stdin=subprocess.DEVNULL,
                    stdout=log.fileno(),
                    stderr=log.fileno(),
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    start_new_session=True,
                )
            )
        except OSError as exc:
            ours.close()
            log.close()
            if self._python is None:
                raise
            raise EnvironmentUnusable(
                f"The interpreter {self._python} cannot be started: {exc.strerror}.",
                remedy="Put it back, or give the model another environment.",
            ) from exc
        finally:
            theirs.close()
        origin = Origin(process=process, control=Link(ours), log=log)
        self._ask(origin, [module for module in self._modules if module not in self._deadly])
        return origin

    def _preload(self, origin: Origin, modules: Iterable[str]) -> None:
        new = [module for module in dict.fromkeys(modules) if module not in self._modules]
        self._modules += new
        self._ask(origin, new)

    def _ask(self, origin: Origin, modules: list[str]) -> None:
        if modules:
            origin.importing += modules
            origin.send({"op": "preload", "modules": modules})


def _program(python: str | None, control: int) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment variables of a zygote."""
    order: dict[str, Any] = {"parent": os.getpid(), "control": control}
    variables = {**LAZY_ARENAS, **os.environ, **ONE_THREAD}
    if python is None:
        path = import_path()
        order |= {"path": path, "pythonpath": os.environ.get("PYTHONPATH")}
        program = [sys.executable, "-P", "-m", "tidemill.executors.zygote"]
        return [*program, json.dumps(order)], {**variables, "PYTHONPATH": os.pathsep.join(path)}
    # What leads this interpreter to its libraries would lead the other one astray.
    order |= {"path": None, "pythonpath": None}
    program = [python, "-P", "-s", str(ELSEWHERE), "tidemill.executors.zygote:main"]
    return [*program, json.dumps(order)], {k: v for k, v in variables.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


def _fork(
    origin: Origin, entry: str, memory_bytes: int | None, *, lend_path: bool, clock: Callable[[], float]
) -> Child:
    our_channel, its_channel = socket.socketpair()
    our_status, its_status = socket.socketpair()
    log = Log()
    with its_channel, its_status:
        path = import_path() if lend_path else None
        order = {"op": "fork", "entry": entry, "cwd": current_folder(), "path": path, "memory_bytes": memory_bytes}
        origin.send(order, (its_channel.fileno(), its_status.fileno(), log.fileno()))
    channel, status = Link(our_channel), Link(our_status)
    return Child(channel=channel, status=status, log=log, origin=origin, memory_bytes=memory_bytes, clock=clock)


def import_path() -> list[str]:
    """Where children find modules: where this process does, and last in the current folder.

    Last, so that a file beside the user's data cannot stand in for a library.
    """
    folder = current_folder()
    # Some installers put words there that are no paths; they mean something to an import hook.
    entries = [os.path.abspath(entry) if os.path.exists(entry) else entry or folder for entry in sys.path]
    return list(dict.fromkeys([*entries, folder]))


def current_folder() -> str:
    """Where this process is; the root if that was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"
