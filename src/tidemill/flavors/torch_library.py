"""Imports PyTorch ahead of time, for a zygote; a missing library is reported when a model is loaded.

Importing starts no thread as long as OMP_NUM_THREADS is 1, which holds in every child.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

# What `torch.export.load` would import costs as much again as PyTorch itself.
for _name in ("torch", "torch.export.pt2_archive", "torch._export.serde.serialize"):
    with suppress(ModuleNotFoundError):
        import_module(_name)
