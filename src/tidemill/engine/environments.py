"""Virtual environments that models bring: made once, found by their hash. Runs in children.

Scorers of such a model run there with this very package, which is lent to them by its place (see
`executors/elsewhere.py`); nothing else of the service's own libraries can be seen from there. What
children need is installed beside the model's requirements in the service's own versions.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tidemill.domain.errors import EnvironmentUnusable
from tidemill.durable.files import make_folder, translated, write_file
from tidemill.engine.environment_homes import CORE, RECORD, digest_of, lock_of, wanted_lines

CHILD_MODULES = ("tidemill.engine.scorer", "tidemill.engine.planner", "pyarrow.parquet")
"""What must be importable where scorers run."""

OLDEST_PYTHON = (3, 11)

INSTALL_SECONDS = 1_800.0
CHECK_SECONDS = 120.0
LOCK_SECONDS = 0.1
QUOTED_LINES = 15

ELSEWHERE = Path(__file__).resolve().parents[1] / "executors" / "elsewhere.py"

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

Progress = Callable[[dict[str, Any]], None]


def environment(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """A task: {"requirements": text | None, "python": path | None, "folder"} -> what `ensure` returns."""
    return ensure(request.get("requirements"), request.get("python"), Path(request["folder"]), progress)


def ensure(requirements: str | None, python: str | None, folder: Path, progress: Progress) -> dict[str, str]:
    """Have an environment: made from requirements in `folder`, or an interpreter that is there already.

    Returns {"python": the interpreter's path, "lock": what is installed there, as `pip freeze` writes it,
    "digest": of the lock and the Python version}. One that was made before is only looked up; of several
    processes one makes it and the others wait. Raises EnvironmentUnusable.
    """
    if python is not None:
        return inspect(python)
    wanted = wanted_lines(requirements or "")
    home = folder / digest_of(wanted)
    with translated(folder):
        make_folder(folder)
    lock = lock_of(folder, home.name)
    with lock:
        while not lock.try_lock():
            progress({"waits_for": str(home)})
            time.sleep(LOCK_SECONDS)
        return _recorded(home) or _make(home, wanted, progress)


def _recorded(home: Path) -> dict[str, str] | None:
    """What was answered when this environment was made; None if it is not there or cannot run any more.

    The record's time says when it was asked for the last time.
    """
    try:
        made: dict[str, str] = json.loads((home / RECORD).read_bytes())
        os.utime(home / RECORD)
    except (OSError, ValueError):
        return None
    return made if os.access(made["python"], os.X_OK) else None


def _make(home: Path, wanted: Sequence[str], progress: Progress) -> dict[str, str]:
    """Make it under a name that nobody looks for, then give it its own. The lock is held."""
    for left in home.parent.glob(f".{home.name}.*"):
        shutil.rmtree(left)
    shutil.rmtree(home, ignore_errors=True)
    scratch = home.parent / f".{home.name}.{os.getpid()}"
    try:
        python = _install(scratch, wanted, progress)
        progress({"step": "checking"})
        made = {**inspect(str(python)), "python": str(home / python.relative_to(scratch))}
        write_file(scratch / RECORD, json.dumps(made).encode())
        # A power cut must not leave its name to an environment with empty files.
        os.sync()
        with translated(home):
            os.rename(scratch, home)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return made


def _install(place: Path, wanted: Sequence[str], progress: Progress) -> Path:
    """Make a virtual environment with all that is wanted; its interpreter."""
    has_pip = importlib.util.find_spec("pip") is not None
    progress({"step": "making"})
    own = ["--without-pip"] if has_pip else []
    _run([sys.executable, "-m", "venv", *own, str(place)], INSTALL_SECONDS, "The virtual environment cannot be made")
    python = place / "bin" / "python"
    listing = place / "requirements.txt"
    write_file(listing, "".join(f"{line}\n" for line in wanted).encode())
    pip = [sys.executable, "-m", "pip", "--python", str(python)] if has_pip else [str(python), "-m", "pip"]
    progress({"step": "installing"})
    _run(
        [*pip, "install", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:", "-r", str(listing)],
        INSTALL_SECONDS,
        "The requirements cannot be installed",
        "Mend the requirements. Only wheels are installed; a line `--no-binary NAME` lets one package be built.",
    )
    return python


def inspect(python: str) -> dict[str, str]:
    """Look at an interpreter: {"python", "lock", "digest"}. Raises EnvironmentUnusable if scorers cannot run there."""
    if not (os.path.isabs(python) and os.access(python, os.X_OK)):
        raise EnvironmentUnusable(
            f"There is no interpreter {python}.", remedy="Give the absolute path of a Python that is on every worker."
        )
    _check_version(python)
    said = _run(
        [python, "-P", "-s", str(ELSEWHERE), f"{__name__}:tell", json.dumps(CHILD_MODULES)],
        CHECK_SECONDS,
        f"Scorers cannot run in {python}",
        f"Install what children need there: {', '.join(CORE)}.",
    )
    lock = "".join(f"{line}\n" for line in json.loads(said.splitlines()[-1]))
    version = _version_of(python)
    return {"python": python, "lock": lock, "digest": hashlib.sha256(f"{version}\n{lock}".encode()).hexdigest()}


def _check_version(python: str) -> None:
    version = _version_of(python)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PYTHON:
        raise EnvironmentUnusable(
            f"{python} is Python {version}; scorers need {'.'.join(map(str, OLDEST_PYTHON))} or later.",
            remedy="Use a later Python for this model.",
        )


def _version_of(python: str) -> str:
    said = _run(
        [python, "-I", "-c", "import platform; print(platform.python_version())"],
        CHECK_SECONDS,
        f"{python} cannot be started",
        "Give the absolute path of a Python interpreter.",
    )
    return said.strip().splitlines()[-1]


def tell(modules: str) -> None:
    """In the other interpreter: import these modules (JSON), then print what is installed (JSON, one line)."""
    for name in json.loads(modules):
        import_module(name)
    found = {_frozen(distribution) for distribution in importlib.metadata.distributions()}
    sys.stdout.write(json.dumps(sorted(filter(None, found), key=str.lower)) + "\n")


def _frozen(distribution: importlib.metadata.Distribution) -> str:
    """A line of `pip freeze`; empty for the remains of a package."""
    name = distribution.metadata["Name"]
    origin = distribution.read_text("direct_url.json")
    if not name:
        return ""
    return f"{name} @ {json.loads(origin)['url']}" if origin else f"{name}=={distribution.version}"


def _run(program: list[str], seconds: float, what: str, remedy: str | None = None) -> str:
    """The output of a program that dies with this process. Raises EnvironmentUnusable with the end of what it said."""
    try:
        done = subprocess.run(
            program,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={name: value for name, value in os.environ.items() if name not in _MISLEADING},
            preexec_fn=_die_with_parent,
        )
    except subprocess.TimeoutExpired as exc:
        raise EnvironmentUnusable(f"{what}: no end after {seconds:g} s.", remedy=remedy) from exc
    except OSError as exc:
        raise EnvironmentUnusable(f"{what}: {exc.strerror}.", remedy=remedy) from exc
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        quoted = "".join(f"\n  {line[:500]}" for line in said[-QUOTED_LINES:])
        raise EnvironmentUnusable(f"{what} (exit {done.returncode}). It printed last:{quoted}", remedy=remedy)
    return done.stdout


_MISLEADING = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")
"""Variables by which an interpreter or pip would use other places than the environment's own."""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
