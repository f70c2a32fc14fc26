"""Compiled kernels of Tidemill: where the shared library lies.

The library is plain C, called by ctypes from `tidemill.kernels`. It is a distribution of its own so that
Tidemill itself stays pure Python; without it everything is scored by the models' own libraries.
"""

from pathlib import Path

__all__ = ["library_path"]


def library_path() -> Path:
    """The shared library that was built for this machine. Raises FileNotFoundError."""
    found = sorted(Path(__file__).parent.glob("_kernels*.so"))
    if not found:
        raise FileNotFoundError(f"no shared library lies in {Path(__file__).parent}")
    return found[0]
