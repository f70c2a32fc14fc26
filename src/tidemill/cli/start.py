"""The entry of the command `tidemill`: what takes longest begins first, then the rest is imported."""

from __future__ import annotations

import sys
from importlib import import_module

from tidemill.bootstrap import early


def main() -> None:
    """Run the command line; ends the process with the documented exit codes."""
    early.begin(sys.argv[1:])
    try:
        import_module("tidemill.cli.main").main()
    finally:
        early.drop()
