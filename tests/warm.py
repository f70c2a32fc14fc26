"""The command line in a process of its own, forked from one that has imported it.

Most of what a small command costs are imports: its own, and those of the process that children are forked from. Here
both are forks of one process that has made them: `multiprocessing`'s fork server, started once. All else is as it is
when the command is typed: its exit code, folder, variables, output and children.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

IMPORTS = "tests.warm_imports"


def tidemill(
    words: Sequence[str], *, cwd: Path, environ: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """`tidemill WORDS` to its end. Raises subprocess.TimeoutExpired once it and its children are killed."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([IMPORTS])
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = server.Process(target=_type, args=(list(words), cwd, dict(environ), out, err))
        process.start()
        process.join(seconds)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(words), seconds)
        process.close()
        return subprocess.CompletedProcess(list(words), code, *(path.read_text("utf-8") for path in (out, err)))


def _type(words: list[str], cwd: Path, environ: dict[str, str], out: Path, err: Path) -> None:
    """In the new process: become the command."""
    from tidemill.cli.start import main
    from tidemill.executors import children

    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.stdout, sys.stderr = _descriptor(1, out), _descriptor(2, err)
    sys.argv = ["tidemill", *words]
    libraries = [entry for entry in sys.path if entry.startswith((sys.prefix, sys.base_prefix))]
    given = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [str(cwd), *given, *libraries]
    children.subprocess = Processes()  # type: ignore[assignment]
    main()


def _descriptor(number: int, path: Path) -> Any:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, number)
    os.close(file)
    return open(number, "w", encoding="utf-8", closefd=False)


class Processes:
    """The module `subprocess` as the worker sees it: the first zygote that it starts is a fork of this process, made
    now, while there is one thread."""

    def __init__(self) -> None:
        self._line, line = socket.socketpair()
        self._zygote = os.fork()
        if self._zygote == 0:
            self._line.close()
            _become_zygote(line)
        line.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, program: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if "tidemill.executors.zygote" not in program or self._line.fileno() < 0:
            return subprocess.Popen(program, **options)
        order = json.dumps([program[-1], options["env"]])
        socket.send_fds(self._line, [order.encode()], [options["stdout"], *options["pass_fds"]])
        self._line.close()
        return Forked(self._zygote)


class Forked(subprocess.Popen[bytes]):
    """A child of this process that was there already."""

    def __init__(self, pid: int) -> None:
        self._forked = pid
        super().__init__([])

    def _execute_child(self, *_: object) -> None:
        self.pid, self._child_created = self._forked, True


def _become_zygote(line: socket.socket) -> None:
    try:
        data, fds, _, _ = socket.recv_fds(line, 2**20, 2)
        line.close()
        if data:
            from tidemill.executors import zygote

            order, environ = json.loads(data)
            log, control = fds
            os.setsid()
            os.environ.clear()
            os.environ.update(environ)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            zygote.main(json.dumps({**json.loads(order), "control": control}))
    finally:
        os._exit(0)
