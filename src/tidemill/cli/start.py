"""The entry of the command `tidemill`: what takes longest begins first, then the rest is imported."""

from __future__ import annotations

import gc
import sys
from importlib import import_module

GARBAGE_THRESHOLD = 50_000
"""So many more objects than were freed are made before the youngest are looked through."""


def main() -> None:
    """Run the command line; ends the process with the documented exit codes."""
    # Nearly all that a command makes lives as long as it: looking for garbage takes a tenth of the time of a start.
    gc.set_threshold(GARBAGE_THRESHOLD)
    early = import_module("tidemill.bootstrap.early")
    early.begin(sys.argv[1:])
    try:
        import_module("tidemill.cli.main").main()
    finally:
        early.drop()
