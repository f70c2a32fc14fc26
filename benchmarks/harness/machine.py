"""What the numbers depend on; no names of hosts, users or folders."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.harness.places import PEERS

LIBRARIES = (
    "tidemill",
    "tidemill-kernels",
    "numpy",
    "pyarrow",
    "lightgbm",
    "xgboost-cpu",
    "scikit-learn",
    "onnxruntime",
)
ENGINES = {"pandas": "pandas", "dask": "dask", "daft": "daft", "ray": "ray", "spark": "pyspark"}
"""By environment of peers: the package whose version is the engine's."""


def facts() -> dict[str, Any]:
    """Cores, memory, system and versions."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory) * 1024,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "peers": {name: pinned(engine, name) for engine, name in ENGINES.items()},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def pinned(engine: str, name: str) -> str:
    """The version of a package in an engine's environment."""
    for path in (PEERS / engine / "requirements.txt", PEERS / "shared" / "libraries.txt"):
        if found := re.search(rf"^{re.escape(name)}==(\S+)", path.read_text(), re.MULTILINE):
            return found[1]
    raise LookupError(f"{engine} pins no {name}.")
