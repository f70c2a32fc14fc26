"""Imports PyTorch ahead of time, for a zygote; a missing library is reported when a model is loaded.

Importing starts no thread as long as OMP_NUM_THREADS is 1, which holds in every child.
"""

from __future__ import annotations

from contextlib import suppress

with suppress(ModuleNotFoundError):
    import torch  # noqa: F401
