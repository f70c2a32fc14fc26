"""Imports what `torch.export.load` needs ahead of time: as much again as PyTorch itself, for exported programs only."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

for _name in ("torch.export.pt2_archive", "torch._export.serde.serialize"):
    with suppress(ModuleNotFoundError):
        import_module(_name)
