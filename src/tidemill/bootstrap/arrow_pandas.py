"""Arrow without pandas, until somebody imports pandas. Runs in children.

Arrow imports pandas, if it is installed, at the first value that it converts from or to Python: a quarter of a second
of CPU and 50 MB that only models pay back whose frames are of pandas.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import pyarrow as pa

from tidemill import registry


def spare_pandas() -> None:
    """Let Arrow find no pandas in this process and in those that are forked from it.

    Whoever imports pandas later - a model's class, a flavor - gets it, and Arrow then takes and gives frames and
    series as ever. Only `pandas.DateOffset`, which no format can store, stays unknown to it.
    """
    if "pandas" in sys.modules or find_spec("pandas") is None:
        return
    with registry.hiding("pandas"):
        pa.array([0])
    sys.meta_path.insert(0, _Lookout())


class _Lookout(MetaPathFinder):
    """Notices the import of pandas."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "pandas":
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Introducing(spec.loader, self)
        return spec


class _Introducing(Loader):
    """Lets Arrow know of pandas once that is imported."""

    def __init__(self, loader: Loader, lookout: _Lookout) -> None:
        self._loader, self._lookout = loader, lookout

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        sys.meta_path.remove(self._lookout)
        # Where pandas is asked for by name, Arrow looks once more. One that is too old for it stays unknown to it.
        with suppress(ImportError):
            pa.nulls(0).to_pandas()
