"""Where files of settings lie."""

from __future__ import annotations

import os
from pathlib import Path


def config_files() -> list[Path]:
    """Where settings files are looked for; the later one wins."""
    if home := os.environ.get("TIDEMILL_HOME"):
        user = Path(home) / "config.toml"
    else:
        user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tidemill" / "config.toml"
    return [user, Path("tidemill.toml")]
