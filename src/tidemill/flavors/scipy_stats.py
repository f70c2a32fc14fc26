"""`scipy.stats` without its code, until somebody uses it. Runs in children.

scikit-learn imports it with its first module, for some functions that fit and rate models: more than a third of what
importing scikit-learn costs, and next to nothing that predicts uses them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

_NAME = "scipy.stats"
_TAKEN_BY_NAME = frozenset({"chi2", "gmean", "rankdata", "spearmanr"})
"""What modules of scikit-learn take with `from scipy.stats import` and use within functions only."""


def defer_stats() -> None:
    """Let `import scipy.stats` execute nothing in this process and in those that are forked from it.

    The first use of anything in it, or import of a part of it, executes it. Nothing happens where SciPy is not
    installed, or its statistics are imported already.
    """
    if _NAME in sys.modules:
        return
    with suppress(ModuleNotFoundError):
        spec = find_spec(_NAME)
        if spec is not None and spec.loader is not None:
            module = _Deferred(spec)
            sys.modules[_NAME] = sys.modules["scipy"].stats = module  # type: ignore[attr-defined]
            sys.meta_path.insert(0, _Lookout(module))


class _Deferred(ModuleType):
    """The module before and while it is executed; then a plain one, and the same object.

    The standard library's LazyLoader would execute it at its second import, and scikit-learn imports it often.
    """

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__loader__, self.__file__ = spec, spec.loader, spec.origin
        self.__package__, self.__path__ = spec.name, list(spec.submodule_search_locations or ())
        self._lock, self._executing = RLock(), False

    def __getattr__(self, name: str) -> Any:
        """What is not there yet."""
        if name in _TAKEN_BY_NAME and not self._executing:
            return _StandIn(self, name)
        if name == "__warningregistry__":  # Looked for in all modules by whoever records warnings.
            raise AttributeError(name)
        self.execute()
        return ModuleType.__getattribute__(self, name)

    def execute(self) -> None:
        """Execute the module, once. Other threads wait; what it imports itself finds as much as is there."""
        with self._lock:
            if self._executing or type(self) is ModuleType:
                return
            self._executing = True
            try:
                assert self.__spec__ is not None and self.__spec__.loader is not None
                self.__spec__.loader.exec_module(self)
            finally:
                self._executing = False
            self.__class__ = ModuleType  # type: ignore[assignment]


class _StandIn:
    """A function or a distribution of the module, which is executed when this is used."""

    def __init__(self, module: _Deferred, name: str) -> None:
        self._module, self._name = module, name

    def _found(self) -> Any:
        _Deferred.execute(self._module)
        return getattr(self._module, self._name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._found()(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found(), name)


class _Lookout(MetaPathFinder):
    """Executes the module before a part of it is imported, as Python does with packages."""

    def __init__(self, module: _Deferred) -> None:
        self._module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{_NAME}."):
            return None
        with suppress(ValueError):
            sys.meta_path.remove(self)
        _Deferred.execute(self._module)
        part = sys.modules.get(fullname)
        if part is None:
            return None
        # Python takes the spec of a module that came meanwhile over the one it is given: it would execute it twice.
        part.__spec__ = ModuleSpec(fullname, _Imported(part))
        return part.__spec__


class _Imported(Loader):
    """Gives a module that is there."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
