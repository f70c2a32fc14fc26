"""A real MLflow server on loopback, with a SQLite store and its own artifact folder.

`mlflow-skinny` brings the server's code but not the packages that it runs on; the whole of `mlflow` wants an older
pyarrow. So those packages are installed beside this environment, for the server's process alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = (
    *("Flask==3.1.3", "Flask-Cors==6.0.5", "blinker==1.9.0", "itsdangerous==2.2.0"),
    *("alembic==1.20.1", "Mako==1.4.3", "graphene==3.4.3", "graphql-relay==3.2.0", "huey==3.5.4", "docker==7.2.0"),
    *("aiohttp==3.14.5", "aiohappyeyeballs==2.7.1", "aiosignal==1.4.0", "attrs==26.1.0", "frozenlist==1.8.0"),
    *("multidict==7.2.1", "propcache==0.5.4", "yarl==1.25.1", "python-multipart==0.0.34"),
)
READY_SECONDS = 120.0


def install(folder: Path) -> None:
    """The packages that the server needs beside those that are here."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, *PACKAGES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextmanager
def serving(packages: Path, home: Path) -> Iterator[str]:
    """The address of a server that keeps its data in `home`."""
    port = _free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "artifacts")),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")])),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(process, port, home / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        # Its own session: the server starts a child for each of its workers.
        os.killpg(process.pid, 9)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    stop = time.monotonic() + READY_SECONDS
    while time.monotonic() < stop:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace"))
