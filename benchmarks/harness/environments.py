"""Peers' own environments: one for each engine, with what its `requirements.txt` pins, made when first needed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.harness.places import FOLDER, PEERS, ROOT

SYSTEM_PACKAGES = {"spark": ("java", "openjdk-17-jre-headless")}
"""Programs that an engine needs beside Python, and the Debian package that has them."""

_MADE = ".made"


class Unavailable(Exception):
    """An engine cannot be had here; the text says why, for the table."""


@cache
def python_of(engine: str, *, make: bool = True) -> Path:
    """The interpreter of an engine's environment. Raises Unavailable.

    It is made anew if its requirements, or this Python, are not those that it was made of; with `make=False`
    that is refused.
    """
    folder = FOLDER / "environments" / engine
    wanted = _digest(engine)
    if (folder / _MADE).is_file() and (folder / _MADE).read_text() == wanted:
        return folder / "bin" / "python"
    if not make:
        raise Unavailable(f"its environment is not made yet: python -m benchmarks --make --contestants {engine}")
    _need_system_packages(engine)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"  making the environment of {engine}", flush=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(PEERS / engine / "requirements.txt")])
    (folder / _MADE).write_text(wanted)
    return python


def _digest(engine: str) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in (PEERS / engine / "requirements.txt", PEERS / "shared" / "libraries.txt"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _need_system_packages(engine: str) -> None:
    program, package = SYSTEM_PACKAGES.get(engine, ("", ""))
    if program and shutil.which(program) is None:
        _run(["bash", str(ROOT / "tools" / "need_packages.sh"), package])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Unavailable(said[-1].strip() if said else f"{command[0]} ended with {done.returncode}")
