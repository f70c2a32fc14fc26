"""Entry points that behave well and badly, for the contract suite of executors.

Tasks take (request, progress). The scorer `score` does with each run what the attempt's name says, up
to its first dash: "done-7" answers at once, "segfault-7" does not. "busy-7" takes seven tenths of a second.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tidemill.domain.errors import NotTrusted, OutputUnwritable
from tidemill.domain.receipt import Receipt
from tidemill.ports.executor import ChunkRun

Progress = Callable[[dict[str, Any]], None]

STEP_ROWS = (3, 5)

SECOND_TIME = " the second time"

RESTING_BYTES = 100 * 2**20
"""What each resting scorer says it holds."""


class Channel(Protocol):
    """A child's end, as every executor hands it to the entry point."""

    def send(self, message: Mapping[str, Any]) -> None: ...

    def receive(self) -> dict[str, Any] | None: ...


class Wordless(Exception):
    """An exception without a text, as bad ones are."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def echo(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Give back the request and the pid."""
    return {"request": request, "pid": os.getpid()}


def interpreter(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Which interpreter this is, and what could lead it astray."""
    return {"python": sys.executable, "pythonpath": os.environ.get("PYTHONPATH"), "parent": os.getppid()}


def count(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Report 0, 1, ... `upto` - 1, each with so many bytes of `fill`."""
    for number in range(request["upto"]):
        progress({"number": number, "fill": "x" * request["fill"]})
    return {"counted": request["upto"]}


def refuse(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    raise OutputUnwritable("No room on /data.", remedy="Free some.")


def blunder(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    _say("about to blunder")
    raise Wordless if request.get("wordless") else ValueError("row 3: 'x' is no number")


def answer_nonsense(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    return {"what": object()}


def answer_too_much(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    return {"what": "x" * (17 * 2**20)}


def segfault(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    _say("last words")
    ctypes.string_at(0)
    return {}


def leave(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """End the process, with or without Python's clean-up."""
    if request.get("politely"):
        sys.exit(request["code"])
    os._exit(request["code"])


def hog(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Allocate `mebibytes`, touching every page."""
    held = [bytearray(b"x" * 2**20) for _ in range(request["mebibytes"])]
    return {"mebibytes": len(held)}


def hang(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Hang in C for ten minutes; with `gil` so that no Python code of this process can run."""
    Path(request["pid_file"]).write_text(str(os.getpid()))
    progress({"pid": os.getpid()})
    _hang(gil=bool(request.get("gil")))
    return {}


def shout(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Print `lines` long lines, then die."""
    for number in range(request["lines"]):
        _say(f"{number} {'x' * 1000}")
    os._exit(9)


def _say(text: str) -> None:
    """As a model prints that knows nothing of us."""
    sys.stdout.write(f"{text}\n")


def _hang(*, gil: bool) -> None:
    (ctypes.PyDLL(None) if gil else ctypes.CDLL(None)).sleep(600)


def score(channel: Channel, job: Mapping[str, Any]) -> None:
    """A scorer. `job`: {"start": how it begins, "folder": where it writes its pid, the runs that it has answered
    and its end, "rests": how it rests when its job is done ("well" if missing)}."""
    _take_job(channel, job)
    while (message := channel.receive()) is not None and message["op"] != "stop":
        if message["op"] == "rest":
            _rest(channel, job.get("rests", "well"))
        elif message["op"] == "job":
            job = message["job"]
            _take_job(channel, job)
        else:
            run = ChunkRun.from_json(message["run"])
            _RUNS[run.attempt.partition("-")[0]](channel, run)
            (Path(job["folder"]) / f"answered-{run.attempt}").touch()
    if message is not None:
        (Path(job["folder"]) / f"stopped-{os.getpid()}").touch()


def _take_job(channel: Channel, job: Mapping[str, Any]) -> None:
    folder = Path(job["folder"])
    (folder / f"started-{os.getpid()}").touch()
    _begin(job["start"], folder)
    channel.send({"op": "ready"})
    (folder / f"ready-{os.getpid()}").touch()
    if job["start"] == "die-later":
        os._exit(4)


def _rest(channel: Channel, how: str) -> None:
    if how == "die":
        os._exit(6)
    _say("a secret of the former job")
    channel.send({"op": "what?"} if how == "rave" else {"op": "rested", "memory_bytes": RESTING_BYTES})


def _begin(how: str, folder: Path) -> None:
    if how.endswith(SECOND_TIME):
        how = how.removesuffix(SECOND_TIME) if (folder / f"ready-{os.getpid()}").exists() else "well"
    if how == "die":
        _say("the model file is cut off")
        os.kill(os.getpid(), signal.SIGABRT)
    elif how == "refuse":
        raise NotTrusted("model.pkl can run code.", remedy="Trust it.")
    elif how == "blunder":
        raise KeyError("weights")
    elif how == "starve":
        raise MemoryError
    elif how == "crowded":
        _abort_unless_first(folder)
    elif how == "one by one":
        _wait_unless_first(folder)
    elif how == "hang":
        _hang(gil=True)


def _abort_unless_first(folder: Path) -> None:
    if not _is_first(folder):
        while not list(folder.glob("ready-*")):
            time.sleep(0.01)
        os.abort()


def _wait_unless_first(folder: Path) -> None:
    while not (_is_first(folder) or (folder / "go").exists()):
        time.sleep(0.01)


def _is_first(folder: Path) -> bool:
    try:
        (folder / "claim").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _done(channel: Channel, run: ChunkRun) -> None:
    receipt = Receipt(chunk=run.chunk, attempt=run.attempt, rows=os.getpid(), predicted=1, rejected=0, parts=())
    channel.send({"op": "done", "attempt": run.attempt, "receipt": None if run.probe else receipt.to_json()})


def _slow(channel: Channel, run: ChunkRun) -> None:
    time.sleep(0.02)
    _done(channel, run)


def _busy(channel: Channel, run: ChunkRun) -> None:
    """Take as many tenths of a second as the attempt's name says, and tell of each."""
    for tenth in range(int(run.attempt.partition("-")[2])):
        channel.send(
            {"op": "progress", "attempt": run.attempt, "rows": tenth, "rejected": 1, "busy_seconds": {"model": 0.5}}
        )
        time.sleep(0.1)
    _done(channel, run)


def _fail(channel: Channel, run: ChunkRun) -> None:
    error = OutputUnwritable("No room on /data.", remedy="Free some.")
    channel.send({"op": "failed", "attempt": run.attempt, "error": error.to_json()})


def _segfault(channel: Channel, run: ChunkRun) -> None:
    _announce(channel, run)
    ctypes.string_at(0)


def _stall(channel: Channel, run: ChunkRun) -> None:
    _announce(channel, run)
    _hang(gil=True)


def _linger(channel: Channel, run: ChunkRun) -> None:
    """Say that it has begun, then hang."""
    _announce(channel, run)
    channel.send({"op": "progress", "attempt": run.attempt, "rows": 0, "rejected": 0, "busy_seconds": {}})
    _hang(gil=True)


def _starve(channel: Channel, run: ChunkRun) -> None:
    raise MemoryError("no more")


def _rave(channel: Channel, run: ChunkRun) -> None:
    channel.send({"op": "what?"})
    _hang(gil=False)


def _crowd(channel: Channel, run: ChunkRun) -> None:
    """Send from several threads at once, then be done."""
    message = {"op": "progress", "attempt": run.attempt, "rows": 1, "rejected": 0, "busy_seconds": {"model": 1.0}}

    def speak() -> None:
        for _ in range(250):
            channel.send(message)

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _done(channel, run)


def _announce(channel: Channel, run: ChunkRun) -> None:
    if run.careful:
        start, stop = STEP_ROWS
        channel.send(
            {
                "op": "step",
                "attempt": run.attempt,
                "stage": "model",
                "row_start": start,
                "row_stop": stop,
                "segment": 1,
            }
        )


_RUNS: dict[str, Callable[[Channel, ChunkRun], None]] = {
    "done": _done,
    "slow": _slow,
    "busy": _busy,
    "fail": _fail,
    "segfault": _segfault,
    "stall": _stall,
    "linger": _linger,
    "starve": _starve,
    "rave": _rave,
    "crowd": _crowd,
}
