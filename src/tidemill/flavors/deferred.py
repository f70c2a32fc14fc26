"""Modules without their code, until somebody uses them. Runs in children.

scikit-learn imports parts of SciPy and NumPy with its first modules for functions that fit and rate models: half of
what importing it costs, and next to nothing that predicts uses them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

TAKEN_BY_NAME: Mapping[str, Collection[str]] = {
    "scipy.stats": {"chi2", "gmean", "rankdata", "spearmanr"},
    "scipy.optimize": {"linear_sum_assignment", "linprog", "minimize", "minimize_scalar"},
    "scipy.interpolate": {"BSpline"},
    "scipy.integrate": {"trapezoid"},
    "numpy.f2py": (),
    "numpy.testing": (),
}
"""What is deferred, each with what modules of scikit-learn take of it with `from ... import` and use within functions
only. NumPy's are imported by SciPy, with all else that NumPy has."""

_ON_THEIR_OWN = frozenset({"scipy.optimize._linesearch", "scipy.optimize._dcsrch"})
"""Parts that scikit-learn imports and that need nothing of the module they are in."""


def defer() -> None:
    """Let importing these modules execute nothing in this process and in those that are forked from it.

    The first use of anything in one, or import of a part of it, executes it. Nothing happens to those that are not
    installed, or imported already.
    """
    lookout = _Lookout()
    sys.meta_path.insert(0, lookout)
    for name, taken in TAKEN_BY_NAME.items():
        if name not in sys.modules:
            with suppress(ModuleNotFoundError):
                lookout.defer(name, taken)


class _Deferred(ModuleType):
    """The module before and while it is executed; then a plain one, and the same object.

    The standard library's LazyLoader would execute it at its second import, and scikit-learn imports it often.
    """

    def __init__(self, spec: ModuleSpec, taken: Collection[str]) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__loader__, self.__file__ = spec, spec.loader, spec.origin
        self.__package__, self.__path__ = spec.name, list(spec.submodule_search_locations or ())
        self._taken, self._lock, self._executing = taken, RLock(), False

    def __getattr__(self, name: str) -> Any:
        """What is not there yet."""
        if name in self._taken and not self._executing:
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
    """Something in the module, which is executed when this is used."""

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
    """Executes modules before a part of them is imported, as Python does with packages."""

    def __init__(self) -> None:
        self._modules: dict[str, _Deferred] = {}

    def defer(self, name: str, taken: Collection[str]) -> None:
        """Put a module into its place, and its parent's."""
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            module = self._modules[name] = _Deferred(spec, taken)
            sys.modules[name] = module
            parent, _, last = name.rpartition(".")
            setattr(sys.modules[parent], last, module)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = self._modules.get(".".join(fullname.split(".")[:2]))
        if module is None or fullname == module.__name__ or fullname in _ON_THEIR_OWN:
            return None
        self._modules.pop(module.__name__, None)
        _Deferred.execute(module)
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
