"""Score big data sets with trained models, asynchronously, and keep the results.

The public names are imported only when they are asked for: `import tidemill` loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tidemill.domain.version import __version__

if TYPE_CHECKING:
    from tidemill.bootstrap.run import Preview, Result, run
    from tidemill.client.client import Client
    from tidemill.domain.errors import TidemillError

__all__ = ["Client", "Preview", "Result", "TidemillError", "__version__", "run"]

_HOME = {
    "Client": "tidemill.client.client",
    "Preview": "tidemill.bootstrap.run",
    "Result": "tidemill.bootstrap.run",
    "TidemillError": "tidemill.domain.errors",
    "run": "tidemill.bootstrap.run",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
